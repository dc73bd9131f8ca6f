"""Contract suites, one per plug-in group: a third party tests its file by inheriting one."""
