//! The whole of Aluco with a real model: command, server, supervisor, worker, llama.cpp. `make test` builds and fetches what it takes
//! and runs these; by themselves they need `ALUCO_TEST_WORKER` and `ALUCO_TEST_MODEL`, two paths.

mod agreement;
mod chaos;
mod deaths;
mod errors;
mod measuring;
mod openai_package;
mod residing;
mod served;
