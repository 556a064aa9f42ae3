//! What a function raises inside a transform, which itself only reports that it failed.

use crate::{Error, Result};
use mlx_rs::error::Exception;
use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    sync::{Mutex, PoisonError},
};

/// Keeps the first error or panic beside the function, so that its type and its path survive the way through MLX.
///
/// A graph may hold the function, and with it this, and may be freed on a thread of MLX's.
#[derive(Default)]
pub(crate) struct Kept(Mutex<Option<Raised>>);

enum Raised {
    Error(Error),
    Panic(Box<dyn Any + Send>),
}

impl Kept {
    /// Runs `f`; when it raises, that is kept, and MLX is told only that the function failed.
    pub fn run<T>(&self, f: impl FnOnce() -> Result<T>) -> Result<T, Exception> {
        let raised = match catch_unwind(AssertUnwindSafe(f)) {
            Ok(Ok(value)) => return Ok(value),
            Ok(Err(error)) => Raised::Error(error),
            Err(panic) => Raised::Panic(panic),
        };
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(raised);
        Err(Exception::custom("the function of a transform failed"))
    }

    /// What was raised: an error, or the panic goes on. `otherwise` when it was the transform itself that failed.
    pub fn raise(&self, otherwise: Exception) -> Error {
        let raised = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        match raised {
            Some(Raised::Error(error)) => error,
            Some(Raised::Panic(panic)) => resume_unwind(panic),
            None => otherwise.into(),
        }
    }
}
