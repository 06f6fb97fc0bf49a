"""Gateau: an executable study of GATEAU, ProLong and SkipAlign. Import the modules, each is named after one idea."""
