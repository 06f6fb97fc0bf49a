"""Into other tools: a step for datatrove, an operator for Data-Juicer, files for trainers."""
