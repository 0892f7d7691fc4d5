"""Sources of data, one file each; how they are split is in `splits`."""
