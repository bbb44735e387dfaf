"""What every room uses: configs, errors, files, the environment, records."""
