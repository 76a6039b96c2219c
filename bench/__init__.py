"""Every published number's script: prints a table, writes JSON with host, versions and commit to bench/results/."""
