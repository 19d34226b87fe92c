"""What goes wrong with a cache on a given model and given prompts, measured, with the setting to try: `dkv doctor`."""
