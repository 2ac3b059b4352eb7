"""The apply flow: accept, record, select, deploy, announce, keep."""
