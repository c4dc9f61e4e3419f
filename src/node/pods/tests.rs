//! Golden tests of the plan and of the status.
