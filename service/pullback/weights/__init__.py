"""Weight files: the manifest, finding and fetching files, and reading them without running any code they contain."""
