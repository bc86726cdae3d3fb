//! The engine: runs, hooks, sweeps and gradients against goldens, and bit by bit.

#[path = "../common/mod.rs"]
mod common;
#[path = "../common/full_passes.rs"]
mod full_passes;

mod attack;
mod base;
mod bits;
mod blocked;
mod cases;
mod fingerprint;
mod generate;
mod golden;
mod gradient;
mod hooks_cases;
mod objectives;
mod op_shapes;
mod places;
mod processing;
mod rows;
mod sweep;
mod toys;
