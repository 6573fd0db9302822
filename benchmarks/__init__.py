"""What speed, memory and quality are measured with; README.md beside this file has the commands and their results."""
