"""The files and frames of a log as they are: opened, told apart, and made lazy tables that nothing has read yet."""
