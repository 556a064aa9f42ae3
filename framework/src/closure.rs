//! Functions as MLX's transforms take them, where mlx-rs has none: compiled without `'static`, and with a gradient of
//! their own.

mod kept;

pub(crate) use kept::Kept;

use crate::{Array, Result};
use mlx_rs::{Device, error::Exception};
use mlx_sys::{mlx_closure, mlx_vector_array};
use std::{ffi::c_void, marker::PhantomData, mem::ManuallyDrop, sync::Arc};

/// A function of arrays, owned by MLX. It captures what lives for `'f`; arrays that it captures are constants.
pub(crate) struct Closure<'f> {
    handle: mlx_closure,
    kept: Arc<Kept>,
    captured: PhantomData<&'f ()>,
}

/// From lists of arrays, of which a plain function takes one, to a list.
type Function<'f> = dyn Fn(&[Vec<Array>]) -> Result<Vec<Array>> + 'f;

/// What MLX hands back when it calls.
struct Payload<'f> {
    function: Box<Function<'f>>,
    kept: Arc<Kept>,
}

impl<'f> Payload<'f> {
    /// For MLX, which gives it to `release` in the end.
    fn leak(kept: &Arc<Kept>, function: impl Fn(&[Vec<Array>]) -> Result<Vec<Array>> + 'f) -> *mut c_void {
        Box::into_raw(Box::new(Self { function: Box::new(function), kept: Arc::clone(kept) })).cast()
    }
}

impl<'f> Closure<'f> {
    /// Gives a function to MLX; what it raises is in `kept`.
    pub fn new(kept: Arc<Kept>, function: impl Fn(&[Array]) -> Result<Vec<Array>> + 'f) -> Result<Self> {
        // The first call into mlx-rs installs its handler of errors; MLX's own ends the process.
        Device::try_default()?;
        let payload = Payload::leak(&kept, move |lists| function(lists.first().map_or(&[], Vec::as_slice)));
        // SAFETY: `call` and `release` take the payload for what it is; MLX releases it once, when nothing refers to it.
        let handle = unsafe { mlx_sys::mlx_closure_new_func_payload(Some(call), payload, Some(release)) };
        Ok(Self { handle, kept, captured: PhantomData })
    }

    /// For MLX, which copies it.
    #[cfg(target_os = "linux")]
    pub fn handle(&self) -> mlx_closure {
        self.handle
    }

    /// The function with another way to its gradient: from inputs and the gradient at the outputs to that at the inputs.
    pub fn with_gradient(self, gradient: impl Fn(&[Array], &[Array]) -> Result<Vec<Array>> + 'f) -> Result<Self> {
        let payload = Payload::leak(&self.kept, move |lists| match lists {
            [inputs, at_outputs, ..] => gradient(inputs, at_outputs),
            _ => Err(refused("a gradient").into()),
        });
        // SAFETY: as in `new`; MLX copies the closure, and this handle is freed once.
        unsafe {
            let gradient = mlx_sys::mlx_closure_custom_new_func_payload(Some(call_gradient), payload, Some(release));
            let result =
                self.transformed("a gradient", |result, function| mlx_sys::mlx_custom_vjp(result, function, gradient));
            mlx_sys::mlx_closure_custom_free(gradient);
            result
        }
    }

    /// The function, traced once for each list of shapes and dtypes, simplified and fused.
    pub fn compiled(self) -> Result<Self> {
        self.compiled_for(false)
    }

    /// As [`compiled`](Self::compiled), traced once for each list of dtypes and numbers of axes: no shape may be read off.
    pub fn compiled_for_any_shape(self) -> Result<Self> {
        self.compiled_for(true)
    }

    fn compiled_for(self, any_shape: bool) -> Result<Self> {
        // SAFETY: both handles are live.
        self.transformed("compilation", |result, function| unsafe { mlx_sys::mlx_compile(result, function, any_shape) })
    }

    fn transformed(self, name: &str, transform: impl FnOnce(*mut mlx_closure, mlx_closure) -> i32) -> Result<Self> {
        // SAFETY: a new handle is empty; it is freed with the result.
        let mut handle = unsafe { mlx_sys::mlx_closure_new() };
        let status = transform(&raw mut handle, self.handle);
        let result = Self { handle, kept: Arc::clone(&self.kept), captured: PhantomData };
        if status == 0 { Ok(result) } else { Err(refused(name).into()) }
    }

    /// Calls it.
    pub fn apply(&self, inputs: &[Array]) -> Result<Vec<Array>> {
        let inputs = Vector::of(inputs);
        let mut outputs = Vector::of([]);
        // SAFETY: all three handles are live; MLX replaces what `outputs` holds.
        let status = unsafe { mlx_sys::mlx_closure_apply(&raw mut outputs.0, self.handle, inputs.0) };
        if status != 0 {
            return Err(self.kept.raise(refused("a transform")));
        }
        Ok(outputs.arrays()?)
    }
}

impl Drop for Closure<'_> {
    fn drop(&mut self) {
        // SAFETY: the handle is live, and no copy of it is left.
        unsafe { mlx_sys::mlx_closure_free(self.handle) };
    }
}

fn refused(name: &str) -> Exception {
    Exception::custom(format!(
        "MLX refused {name} of a function; it may use an array that another transform traces and that is not among its \
         inputs"
    ))
}

/// Arrays that must be computed before others: the arrays `inputs`, to be used once all of `before` are there.
pub(crate) fn after(inputs: &[Array], before: &[Array]) -> Result<Vec<Array>> {
    if inputs.is_empty() || before.is_empty() {
        return Ok(inputs.to_vec());
    }
    let (inputs, before) = (Vector::of(inputs), Vector::of(before));
    let mut outputs = Vector::of([]);
    // SAFETY: all three handles are live; MLX replaces what `outputs` holds.
    let status = unsafe { mlx_sys::mlx_depends(&raw mut outputs.0, inputs.0, before.0) };
    if status == 0 { Ok(outputs.arrays()?) } else { Err(refused("an order").into()) }
}

/// MLX's vector of arrays.
pub(crate) struct Vector(mlx_vector_array);

impl Vector {
    /// For MLX, which copies it.
    #[cfg(target_os = "linux")]
    pub fn handle(&self) -> mlx_vector_array {
        self.0
    }

    /// Of these arrays.
    pub fn of<'a>(arrays: impl IntoIterator<Item = &'a Array>) -> Self {
        // SAFETY: the vector copies the handles, each of which is live.
        unsafe {
            let vector = mlx_sys::mlx_vector_array_new();
            for array in arrays {
                mlx_sys::mlx_vector_array_append_value(vector, array.as_ptr());
            }
            Self(vector)
        }
    }

    fn arrays(&self) -> Result<Vec<Array>, Exception> {
        // SAFETY: the vector is live, and every index is below its size; `get` fills a new handle.
        unsafe {
            let count = mlx_sys::mlx_vector_array_size(self.0);
            let get = |index| {
                let mut array = mlx_sys::mlx_array_new();
                let status = mlx_sys::mlx_vector_array_get(&raw mut array, self.0, index);
                let array = Array::from_ptr(array);
                if status == 0 { Ok(array) } else { Err(refused("the result")) }
            };
            (0..count).map(get).collect()
        }
    }
}

impl Drop for Vector {
    fn drop(&mut self) {
        // SAFETY: the vector is live, and no copy of its handle is left.
        unsafe { mlx_sys::mlx_vector_array_free(self.0) };
    }
}

extern "C" fn call(result: *mut mlx_vector_array, inputs: mlx_vector_array, payload: *mut c_void) -> i32 {
    answer(result, &[inputs], payload)
}

extern "C" fn call_gradient(
    result: *mut mlx_vector_array,
    inputs: mlx_vector_array,
    at_outputs: mlx_vector_array,
    outputs: mlx_vector_array,
    payload: *mut c_void,
) -> i32 {
    answer(result, &[inputs, at_outputs, outputs], payload)
}

fn answer(result: *mut mlx_vector_array, lists: &[mlx_vector_array], payload: *mut c_void) -> i32 {
    // SAFETY: `Payload::leak` made the payload, and MLX keeps it while it calls.
    let payload = unsafe { &*payload.cast::<Payload<'_>>() };
    let run = || {
        // MLX owns the lists.
        let lists = lists.iter().map(|&list| ManuallyDrop::new(Vector(list)).arrays());
        (payload.function)(&lists.collect::<Result<Vec<_>, _>>()?)
    };
    match payload.kept.run(run) {
        Ok(outputs) => {
            // SAFETY: MLX wants a new vector there, which it frees.
            unsafe { *result = ManuallyDrop::new(Vector::of(&outputs)).0 };
            0
        }
        Err(_) => 1,
    }
}

extern "C" fn release(payload: *mut c_void) {
    // SAFETY: `Payload::leak` made the payload, and MLX releases it once.
    drop(unsafe { Box::from_raw(payload.cast::<Payload<'_>>()) });
}
