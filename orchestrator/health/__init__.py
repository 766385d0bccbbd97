"""How the whole is: gauges for Prometheus, and the checks of `/api/health/deep` and `holdfast doctor`."""
