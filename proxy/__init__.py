"""The thing studied: two engines behind one ProxyService. `python -m proxy serve` starts one."""
