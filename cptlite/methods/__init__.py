"""Methods, one file per idea; `cptlite.methods.table` names them."""
