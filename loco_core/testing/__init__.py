"""Contract suites: a third party's file in a drawer is tested by inheriting one."""
