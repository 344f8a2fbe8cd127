"""A policy in a C program."""
