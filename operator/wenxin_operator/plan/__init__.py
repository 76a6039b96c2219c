"""Spec and snapshot in, the objects that should exist out. Pure: no clock, no client, no chance."""
