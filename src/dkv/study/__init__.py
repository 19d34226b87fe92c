"""The field's experiments as commands: `dkv study`."""
