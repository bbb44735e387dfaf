"""The embedded data set, and checks of data folders."""
