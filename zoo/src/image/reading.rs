//! The texts of a request.

use super::{Evaluation, ImageRequest};
use crate::{Result, error::finite};
use framework::{Array, Dtype, Result as Outcome, math, sample::Condition};
use mlx_rs::ops;
use std::{collections::HashMap, ops::Range};

/// Every text of a request once; which of them each picture is led towards, and which one away from.
pub(crate) struct Reading {
    pub texts: Vec<String>,
    towards: Vec<i32>,
    away: Option<Vec<i32>>,
}

impl Reading {
    /// The texts of a request.
    pub fn of(request: &ImageRequest) -> Self {
        let mut texts: Vec<String> = Vec::new();
        let mut known = HashMap::new();
        let mut places = |wanted: &[String]| -> Vec<i32> {
            let place = |text: &String| {
                *known.entry(text.clone()).or_insert_with(|| {
                    texts.push(text.clone());
                    texts.len() as i32 - 1
                })
            };
            wanted.iter().map(place).collect()
        };
        let towards = places(&request.prompts);
        let away = request.is_guided().then(|| places(&request.negatives()));
        Self { texts, towards, away }
    }

    /// How many texts there are.
    pub fn count(&self) -> i32 {
        self.texts.len() as i32
    }

    /// Which text leads each picture of an evaluation: rows of what [`encode`](Self::encode) gives, `[B]`.
    pub fn places(&self, evaluation: &Evaluation<'_>) -> Outcome<Array> {
        let Evaluation { condition, rows, .. } = evaluation;
        let places = match (condition, &self.away) {
            (Condition::Away, Some(away)) => away,
            _ => &self.towards,
        };
        let places = places.get(rows.start as usize..rows.end as usize);
        let places = places.ok_or_else(|| framework::Error::argument("rows", format!("{rows:?} have no text")))?;
        math::array(places, &[places.len() as i32])
    }

    /// The texts in parts of at most `at_once`.
    pub fn parts(&self, at_once: i32) -> impl ExactSizeIterator<Item = Range<i32>> {
        let count = self.count();
        let at_once = at_once.max(1);
        (0..count).step_by(at_once as usize).map(move |first| first..count.min(first.saturating_add(at_once)))
    }

    /// Encodes all texts, at most `at_once` of them at a time, and tells `encoded` of each time: `[N, …]` in `dtype`.
    ///
    /// # Errors
    /// Those of `encode` and `encoded`; when there is a NaN or an infinity.
    pub fn encode(
        &self,
        at_once: i32,
        dtype: Dtype,
        encode: &dyn Fn(Range<i32>) -> Outcome<Array>,
        encoded: &mut dyn FnMut() -> Result<()>,
    ) -> Result<Array> {
        let mut parts = Vec::new();
        for rows in self.parts(at_once) {
            let x = encode(rows)?.as_dtype(dtype)?;
            finite(&x, "encoding")?;
            encoded()?;
            parts.push(x);
        }
        Ok(ops::concatenate(&parts, 0)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use framework::sample::Guidance;

    fn plain() -> ImageRequest {
        let prompts = ["a", "b", "a"].map(String::from).to_vec();
        let row = crate::published::find("flux.1-dev").unwrap();
        ImageRequest { prompts, ..row.image.as_ref().unwrap().request() }
    }

    #[test]
    fn every_text_is_read_once() {
        let read = Reading::of(&plain());
        assert_eq!((read.texts, read.towards, read.away), (vec!["a".into(), "b".into()], vec![0, 1, 0], None));
        let guided = ImageRequest { true_guidance: Guidance::classifier_free(2.0), ..plain() };
        let read = Reading::of(&ImageRequest { negative_prompts: vec!["b".into()], ..guided });
        assert_eq!((read.texts.len(), read.away), (2, Some(vec![1, 1, 1])));
    }

    #[test]
    fn parts_cover_all_texts() {
        let read = Reading::of(&plain());
        assert_eq!(read.parts(1).collect::<Vec<_>>(), [0..1, 1..2]);
        assert_eq!((read.parts(7).len(), read.parts(7).next()), (1, Some(0..2)));
    }
}
