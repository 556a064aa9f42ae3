//! Arrays of f32 in host memory.

use std::ffi::c_int;

/// As `primitive.cpp` has it.
#[repr(C)]
pub struct Raw {
    data: *mut f32,
    shape: *const c_int,
    strides: *const i64,
    axes: usize,
}

impl Raw {
    /// # Safety
    /// What it describes is f32, in one live buffer.
    pub unsafe fn operand<'a>(&self) -> Operand<'a> {
        // SAFETY: the caller's; MLX's lists have a pointer that is not null also when they are empty.
        let (shape, strides) = unsafe { (list(self.shape, self.axes), list(self.strides, self.axes)) };
        let shape: Vec<usize> = shape.iter().map(|&length| length as usize).collect();
        let strides: Vec<isize> = strides.iter().map(|&stride| stride as isize).collect();
        if shape.contains(&0) {
            return Operand { elements: &[], first: 0, shape, strides };
        }
        let (mut first, mut last) = (0, 0);
        for (&length, &stride) in shape.iter().zip(&strides) {
            let reach = (length as isize - 1) * stride;
            first += reach.min(0);
            last += reach.max(0);
        }
        // SAFETY: both ends are elements of the array, so that all between them is in its buffer.
        let elements = unsafe { std::slice::from_raw_parts(self.data.offset(first), (last - first) as usize + 1) };
        Operand { elements, first: -first, shape, strides }
    }

    /// # Safety
    /// What it describes is row-major and f32, in a live buffer that nothing else refers to.
    pub unsafe fn elements<'a>(&self) -> &'a mut [f32] {
        // SAFETY: the caller's.
        unsafe {
            let size = list(self.shape, self.axes).iter().map(|&length| length as usize).product();
            if size == 0 { &mut [] } else { std::slice::from_raw_parts_mut(self.data, size) }
        }
    }
}

unsafe fn list<'a, T>(data: *const T, length: usize) -> &'a [T] {
    // SAFETY: the caller's.
    if length == 0 { &[] } else { unsafe { std::slice::from_raw_parts(data, length) } }
}

/// An array, with the steps between its elements.
pub struct Operand<'a> {
    /// From the lowest address that belongs to it to the highest.
    elements: &'a [f32],
    /// Where among them the first element is.
    first: isize,
    shape: Vec<usize>,
    strides: Vec<isize>,
}

impl<'a> Operand<'a> {
    /// The lengths of the axes.
    pub fn shape(&self) -> &[usize] {
        &self.shape
    }

    /// How far neighbours along an axis are apart.
    pub fn stride(&self, axis: usize) -> isize {
        self.strides[axis]
    }

    /// All elements, if they are row-major without gaps.
    pub fn flat(&self) -> Option<&'a [f32]> {
        let mut expected = 1;
        for (&length, &stride) in self.shape.iter().zip(&self.strides).rev() {
            if length != 1 && stride != expected {
                return None;
            }
            expected *= length as isize;
        }
        Some(self.elements)
    }

    /// Where the elements that have this index on the first axes begin.
    pub fn pointer(&self, index: &[usize]) -> *const f32 {
        &raw const self.elements[self.place(index)]
    }

    /// The elements along the last axis that have this index on the others; what is not side by side goes to `scratch`.
    pub fn row<'b>(&self, index: &[usize], scratch: &'b mut Vec<f32>) -> &'b [f32]
    where
        'a: 'b,
    {
        let (first, length, stride) = match self.shape.len() {
            0 => (self.place(&[]), 1, 1),
            axes => (self.place(index), self.shape[axes - 1], self.strides[axes - 1]),
        };
        if stride == 1 {
            return &self.elements[first..first + length];
        }
        scratch.clear();
        scratch.extend((0..length as isize).map(|at| self.elements[(first as isize + at * stride) as usize]));
        scratch
    }

    fn place(&self, index: &[usize]) -> usize {
        let steps = index.iter().zip(&self.strides).map(|(&at, &stride)| at as isize * stride);
        (self.first + steps.sum::<isize>()) as usize
    }
}

/// The index on all axes but the last that is at a row-major place.
pub fn unravelled(mut place: usize, shape: &[usize]) -> Vec<usize> {
    let mut index = vec![0; shape.len().saturating_sub(1)];
    for (at, &length) in index.iter_mut().zip(shape).rev() {
        (*at, place) = (place % length, place / length);
    }
    index
}
