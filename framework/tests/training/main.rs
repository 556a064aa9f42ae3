//! Training: against torch, transformers and diffusers, and what holds for every step and every checkpoint.

mod checkpoint;
mod goldens;
mod step;
mod toy;
