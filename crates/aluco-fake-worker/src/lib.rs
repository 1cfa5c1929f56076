//! A stand-in worker for tests.
