//! Observation: who asks sees every activation under its module's path, and may put another in its place.
//!
//! A tap is the only thread-local of the framework. Without one, the cost of a [`call!`](crate::call!) is a check of a
//! flag.

use mlx_rs::Array;
use std::{
    cell::{Cell, RefCell},
    fmt::Display,
};

/// Sees an activation under its path; what it returns takes the activation's place.
pub type Sink<'a> = dyn FnMut(&str, &Array) -> Option<Array> + 'a;

thread_local! {
    static ACTIVE: Cell<bool> = const { Cell::new(false) };
    static ANSWERING: Cell<bool> = const { Cell::new(false) };
    static PATH: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
    static SINK: Cell<Option<*mut Sink<'static>>> = const { Cell::new(None) };
}

/// Runs `f` and offers every activation that it computes on this thread to `sink`.
///
/// A tap inside a tap hides the outer one until it returns. Do not install one around a transform (gradients,
/// compilation): its activations are tracers.
///
/// ```
/// use framework::{Init, Linear, Module, Result, call, module, tap};
/// use mlx_rs::Array;
/// struct Two {
///     first: Linear,
///     second: Linear,
/// }
/// module! { impl[] Two { first, second } }
/// impl Two {
///     fn forward(&self, x: &Array) -> Result<Array> {
///         call!(self.second.forward(&call!(self.first.forward(x))?))
///     }
/// }
/// let mut init = Init::default();
/// let two = Two { first: Linear::new(4, 3, true, &mut init)?, second: Linear::new(3, 2, true, &mut init)? };
/// let mut seen = vec![];
/// let mut sink = |path: &str, x: &Array| {
///     seen.push(format!("{path} {:?}", x.shape()));
///     None
/// };
/// tap::with(&mut sink, || two.forward(&Array::zeros::<f32>(&[1, 4])?))?;
/// assert_eq!(seen, ["first [1, 3]", "second [1, 2]"]);
/// # Ok::<(), framework::Error>(())
/// ```
pub fn with<T>(sink: &mut Sink<'_>, f: impl FnOnce() -> T) -> T {
    install(sink, false, f)
}

/// As [`with`], where `sink` is also asked what parts would compute first: under `path?name`, see [`ask`].
pub fn answering<T>(sink: &mut Sink<'_>, f: impl FnOnce() -> T) -> T {
    install(sink, true, f)
}

fn install<T>(sink: &mut Sink<'_>, answering: bool, f: impl FnOnce() -> T) -> T {
    struct Restore {
        sink: Option<*mut Sink<'static>>,
        answering: bool,
        path: Vec<String>,
    }
    impl Drop for Restore {
        fn drop(&mut self) {
            SINK.set(self.sink);
            ANSWERING.set(self.answering);
            ACTIVE.set(self.sink.is_some());
            PATH.set(std::mem::take(&mut self.path));
        }
    }
    // SAFETY: the pointer is used only while `f` runs, during which `sink` is borrowed; `Restore` takes it out of the
    // thread-local on every way out, and `offer` takes it out while it calls it, so it is never aliased.
    let pointer = unsafe { std::mem::transmute::<*mut Sink<'_>, *mut Sink<'static>>(sink) };
    let _restore =
        Restore { sink: SINK.replace(Some(pointer)), answering: ANSWERING.replace(answering), path: PATH.take() };
    ACTIVE.set(true);
    f()
}

/// An open scope; closes when dropped.
pub struct Scope(usize);

impl Drop for Scope {
    fn drop(&mut self) {
        if self.0 > 0 {
            PATH.with_borrow_mut(|path| path.truncate(path.len().saturating_sub(self.0)));
        }
    }
}

/// Whether anybody observes: then parts compute one after the other what they could compute at once.
pub fn is_watched() -> bool {
    ACTIVE.get()
}

/// Opens a scope of the given path segments; [`call!`](crate::call!) and [`within!`](crate::within!) do.
pub fn enter(segments: &[&dyn Display]) -> Scope {
    if !ACTIVE.get() {
        return Scope(0);
    }
    PATH.with_borrow_mut(|path| path.extend(segments.iter().map(ToString::to_string)));
    Scope(segments.len())
}

/// The sink while it is called: meanwhile there is no tap.
struct Watching {
    sink: *mut Sink<'static>,
    path: String,
}

impl Watching {
    fn begin() -> Option<Self> {
        if !ACTIVE.get() {
            return None;
        }
        let sink = SINK.replace(None)?;
        ACTIVE.set(false);
        Some(Self { sink, path: PATH.with_borrow(|path| path.join(".")) })
    }

    fn call(&mut self, suffix: &str, array: &Array) -> Option<Array> {
        // SAFETY: see `with`; the sink was taken out of the thread-local in `begin`.
        unsafe { (*self.sink)(&format!("{}{suffix}", self.path), array) }
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        SINK.set(Some(self.sink));
        ACTIVE.set(true);
    }
}

/// Offers a value under the current path, and returns it or its replacement.
pub fn offer<T: Observed>(value: T) -> T {
    match Watching::begin() {
        Some(mut watching) => value.observe(&mut |suffix, array| watching.call(suffix, &array).unwrap_or(array)),
        None => value,
    }
}

/// Shows what a part is about to compute from, as `path?name`, to whoever is [`answering`]: the answer is used in place of
/// what the part would compute first, and the part says what that is.
pub fn ask(name: &str, x: &Array) -> Option<Array> {
    if !ANSWERING.get() {
        return None;
    }
    Watching::begin()?.call(&format!("?{name}"), x)
}

/// Offers a value that no part of its own computes, under a name below the current path.
pub fn named<T: Observed>(name: &str, value: T) -> T {
    let _scope = enter(&[&name]);
    offer(value)
}

/// A result that can be observed: an array, or a composition of arrays whose parts get a suffix of the path.
pub trait Observed: Sized {
    /// Offers every array inside with its suffix (`""`, `"#0"`, `"#name"`) and puts what comes back in its place.
    fn observe(self, offer: &mut dyn FnMut(&str, Array) -> Array) -> Self;
}

impl Observed for Array {
    fn observe(self, offer: &mut dyn FnMut(&str, Array) -> Array) -> Self {
        offer("", self)
    }
}

impl Observed for (Array, Array) {
    fn observe(self, offer: &mut dyn FnMut(&str, Array) -> Array) -> Self {
        (offer("#0", self.0), offer("#1", self.1))
    }
}

impl Observed for (Array, Array, Array) {
    fn observe(self, offer: &mut dyn FnMut(&str, Array) -> Array) -> Self {
        (offer("#0", self.0), offer("#1", self.1), offer("#2", self.2))
    }
}

impl Observed for Vec<Array> {
    fn observe(self, offer: &mut dyn FnMut(&str, Array) -> Array) -> Self {
        let number = |(index, array)| offer(&format!("#{index}"), array);
        self.into_iter().enumerate().map(number).collect()
    }
}

/// Implements [`Observed`](crate::tap::Observed) for a struct whose named fields are all arrays.
#[macro_export]
macro_rules! observed {
    ($type:ident { $($field:ident),* $(,)? }) => {
        impl $crate::tap::Observed for $type {
            fn observe(self, offer: &mut dyn FnMut(&str, $crate::Array) -> $crate::Array) -> Self {
                Self { $($field: offer(concat!("#", stringify!($field)), self.$field)),* }
            }
        }
    };
}

/// Forwards to a part: offers the result to the tap under the part's path, and prepends the path to an error.
///
/// Takes a place of any depth, `call!(self.blocks[i].attn.forward(&h, at))`, and yields the method's `Result`. The
/// arguments are evaluated before the scope opens, so calls nest.
///
/// A part that a pattern bound to its own name needs no place: `Some(bias) => call!(bias.forward(&x))`.
#[macro_export]
macro_rules! call {
    ($part:ident . $method:ident ( $($argument:expr),* $(,)? )) => {
        $crate::__call!(@bind [$part] [stringify!($part)] $method [] $($argument),*)
    };
    ($root:ident $($rest:tt)+) => { $crate::__call!(@walk [$root] [] $($rest)+) };
}

/// The parts of [`call!`]: walks the place, binds the arguments, then calls.
#[doc(hidden)]
#[macro_export]
macro_rules! __call {
    (@walk [$($place:tt)+] [$($segment:expr),+] . $method:ident ( $($argument:expr),* $(,)? )) => {
        $crate::__call!(@bind [$($place)+] [$($segment),+] $method [] $($argument),*)
    };
    (@walk [$($place:tt)+] [$($segment:expr),*] . $field:tt $($rest:tt)+) => {
        $crate::__call!(@walk [$($place)+ . $field] [$($segment,)* stringify!($field)] $($rest)+)
    };
    (@walk [$($place:tt)+] [$($segment:expr),*] [ $index:expr ] $($rest:tt)+) => {
        match $index {
            index => $crate::__call!(@walk [$($place)+ [index]] [$($segment,)* index] $($rest)+),
        }
    };
    (@bind [$($place:tt)+] [$($segment:expr),+] $method:ident [$($bound:ident)*] $argument:expr $(, $rest:expr)*) => {
        match $argument {
            argument => $crate::__call!(
                @bind [$($place)+] [$($segment),+] $method [$($bound)* argument] $($rest),*
            ),
        }
    };
    (@bind [$($place:tt)+] [$($segment:expr),+] $method:ident [$($bound:ident)*]) => {{
        let path: &[&dyn ::std::fmt::Display] = &[$(&$segment),+];
        let scope = $crate::tap::enter(path);
        let result = $($place)+.$method($($bound),*).map($crate::tap::offer);
        drop(scope);
        result.map_err(|error| error.under(path))
    }};
}

/// Opens the scope of a part without offering a value: `within!(self.streams[i] => expression)`, where the expression
/// is a `Result`, whose error gets the path.
#[macro_export]
macro_rules! within {
    ($root:ident $($rest:tt)+) => { $crate::__within!([] $($rest)+) };
}

/// The part of [`within!`] that walks the place.
#[doc(hidden)]
#[macro_export]
macro_rules! __within {
    ([$($segment:expr),+] => $body:expr) => {{
        let path: &[&dyn ::std::fmt::Display] = &[$(&$segment),+];
        let scope = $crate::tap::enter(path);
        let result = $body;
        drop(scope);
        result.map_err(|error: $crate::Error| error.under(path))
    }};
    ([$($segment:expr),*] . $field:tt $($rest:tt)+) => {
        $crate::__within!([$($segment,)* stringify!($field)] $($rest)+)
    };
    ([$($segment:expr),*] [ $index:expr ] $($rest:tt)+) => {
        match $index {
            index => $crate::__within!([$($segment,)* index] $($rest)+),
        }
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Init, Linear, Result};

    struct Leafy {
        q: Linear,
        norm: Linear,
    }
    struct Tree {
        blocks: Vec<Leafy>,
    }
    impl Leafy {
        fn forward(&self, x: &Array) -> Result<Array> {
            call!(self.norm.forward(&call!(self.q.forward(x))?))
        }
    }
    impl Tree {
        fn new() -> Self {
            let mut init = Init::default();
            let mut linear = || Linear::new(2, 2, false, &mut init).unwrap();
            let leafy = |_| Leafy { q: linear(), norm: linear() };
            Self { blocks: (0..2).map(leafy).collect() }
        }
        fn forward(&self, x: &Array) -> Result<Array> {
            let once = |x: Array, i: usize| call!(self.blocks[i].forward(&x));
            (0..self.blocks.len()).try_fold(x.clone(), once)
        }
    }

    fn input() -> Array {
        Array::ones::<f32>(&[1, 2]).unwrap()
    }

    #[test]
    fn arguments_are_evaluated_outside_the_scope() {
        let mut seen = vec![];
        let mut sink = |path: &str, _: &Array| {
            seen.push(path.to_owned());
            None
        };
        with(&mut sink, || Tree::new().forward(&input())).unwrap();
        let expected = ["blocks.0.q", "blocks.0.norm", "blocks.0", "blocks.1.q", "blocks.1.norm", "blocks.1"];
        assert_eq!(seen, expected);
    }

    #[test]
    fn a_replacement_takes_the_place_of_the_activation() {
        let tree = Tree::new();
        let zero = Array::zeros::<f32>(&[1, 2]).unwrap();
        let mut sink = |path: &str, _: &Array| (path == "blocks.0").then(|| zero.clone());
        let forced = with(&mut sink, || tree.forward(&input())).unwrap();
        assert_eq!(crate::math::read::<f32>(&forced).unwrap(), [0.0, 0.0]);
    }

    #[test]
    fn an_error_carries_the_path() {
        let error = Tree::new().forward(&Array::ones::<f32>(&[1, 3]).unwrap()).unwrap_err();
        assert!(error.to_string().starts_with("blocks.0.q: "), "{error}");
    }

    #[test]
    fn within_opens_a_scope_without_offering() {
        let tree = Tree::new();
        let mut seen = vec![];
        let mut sink = |path: &str, _: &Array| {
            seen.push(path.to_owned());
            None
        };
        let body = || within!(tree.blocks[1] => tree.blocks[1].q.forward(&input()).map(offer));
        with(&mut sink, body).unwrap();
        assert_eq!(seen, ["blocks.1"]);
    }

    #[test]
    fn a_panic_removes_the_tap() {
        let mut sink = |_: &str, _: &Array| None;
        let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            with(&mut sink, || panic!("inside"));
        }));
        assert!(caught.is_err());
        assert!(!ACTIVE.get());
    }
}
