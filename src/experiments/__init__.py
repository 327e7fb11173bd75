"""What makes numbers: benchmark, pools, sweeps, latency, calibration."""
