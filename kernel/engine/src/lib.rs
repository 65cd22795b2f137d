//! Runs compiled plans: executables, workspaces and the backend contract.
