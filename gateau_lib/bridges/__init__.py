"""Into the tools that others work with: a step for datatrove, an operator for Data-Juicer, files for trainers."""
