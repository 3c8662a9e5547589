"""Models of open_clip, by the extra ``openclip``, as backbones."""
