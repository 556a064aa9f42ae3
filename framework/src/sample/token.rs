//! Choosing the next token from logits.

use crate::{Error, Result};
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;
use std::collections::HashSet;

/// How the next token is chosen. Applied in the order of the fields, as transformers does.
///
/// ```
/// use framework::sample::TokenSampler;
/// let greedy = TokenSampler::default();
/// assert_eq!(greedy.generator(0).choose(&[0.1, 2.0, -1.0], &[])?, 1);
/// # Ok::<(), framework::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct TokenSampler {
    /// Divides positive logits of tokens that occurred, multiplies negative ones; 1 is off
    /// (<https://arxiv.org/abs/1909.05858>).
    pub repetition_penalty: f32,
    /// Divides the logits; 0 takes the likeliest token.
    pub temperature: f32,
    /// Keeps the k likeliest tokens; 0 is off.
    pub top_k: usize,
    /// Keeps the likeliest tokens that together reach this probability; 1 is off (<https://arxiv.org/abs/1904.09751>).
    pub top_p: f32,
    /// Keeps tokens at least this probable relative to the likeliest; 0 is off (<https://arxiv.org/abs/2407.01082>).
    pub min_p: f32,
}

impl Default for TokenSampler {
    /// Greedy.
    fn default() -> Self {
        Self { repetition_penalty: 1.0, temperature: 0.0, top_k: 0, top_p: 1.0, min_p: 0.0 }
    }
}

impl TokenSampler {
    /// Checks every value.
    ///
    /// # Errors
    /// Names the first value that is out of its range.
    pub fn validate(&self) -> Result<()> {
        let check = |name, value: f32, range: &str, fits: bool| {
            if value.is_finite() && fits {
                return Ok(());
            }
            Err(Error::argument(name, format!("{value} is not {range}")))
        };
        check("repetition_penalty", self.repetition_penalty, "above 0", self.repetition_penalty > 0.0)?;
        check("temperature", self.temperature, "0 or more", self.temperature >= 0.0)?;
        check("top_p", self.top_p, "above 0 and at most 1", self.top_p > 0.0 && self.top_p <= 1.0)?;
        check("min_p", self.min_p, "from 0 to 1", (0.0..=1.0).contains(&self.min_p))
    }

    /// Whether the likeliest token is taken and nothing changes the logits: no need to read them from the device.
    pub fn is_argmax(&self) -> bool {
        self.temperature == 0.0 && self.repetition_penalty == 1.0
    }

    /// A seeded stream of choices.
    pub fn generator(&self, seed: u64) -> TokenGenerator {
        TokenGenerator { sampler: self.clone(), random: Pcg64Mcg::seed_from_u64(seed) }
    }

    /// The tokens that may be chosen, likeliest first, with their probabilities.
    ///
    /// # Errors
    /// When no logit is a number.
    pub fn distribution(&self, logits: &[f32], history: &[u32]) -> Result<Vec<(u32, f32)>> {
        let repeated: HashSet<u32> = history.iter().copied().collect();
        let penalise = |(token, &logit): (usize, &f32)| {
            let token = token as u32;
            let logit = match logit > 0.0 {
                _ if !repeated.contains(&token) => logit,
                true => logit / self.repetition_penalty,
                false => logit * self.repetition_penalty,
            };
            (token, logit)
        };
        let numbers = logits.iter().enumerate().map(penalise).filter(|(_, logit)| !logit.is_nan());
        let mut tokens: Vec<(u32, f32)> = numbers.collect();
        let highest = tokens.iter().map(|&(_, logit)| logit).fold(f32::NEG_INFINITY, f32::max);
        if !highest.is_finite() {
            return Err(Error::NotFinite { stage: "logits".into() });
        }
        if self.temperature == 0.0 {
            tokens.retain(|&(_, logit)| logit == highest);
            tokens.truncate(1);
        } else {
            for (_, logit) in &mut tokens {
                *logit = (*logit - highest) / self.temperature;
            }
        }
        if self.top_k > 0 && self.top_k < tokens.len() {
            tokens.select_nth_unstable_by(self.top_k - 1, likelier);
            tokens.truncate(self.top_k);
        }
        for (_, value) in &mut tokens {
            *value = if self.temperature == 0.0 { 1.0 } else { value.exp() };
        }
        normalise(&mut tokens);
        if self.top_p < 1.0 {
            // Tokens below this share cannot be in the nucleus: together they hold less than 1 − p.
            let floor = (1.0 - self.top_p) / tokens.len() as f32;
            tokens.retain(|&(_, probability)| probability >= floor);
        }
        tokens.sort_unstable_by(likelier);
        let mut reached = 0.0;
        let nucleus = tokens.iter().take_while(|(_, probability)| {
            let before = reached;
            reached += probability;
            before < self.top_p
        });
        let nucleus = nucleus.count();
        tokens.truncate(nucleus.max(1));
        let least = tokens.first().map_or(0.0, |&(_, most)| most * self.min_p);
        tokens.retain(|&(_, probability)| probability >= least);
        normalise(&mut tokens);
        Ok(tokens)
    }
}

/// By value from high to low, then by token, so that equal logits have one order.
fn likelier(a: &(u32, f32), b: &(u32, f32)) -> std::cmp::Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

fn normalise(tokens: &mut [(u32, f32)]) {
    let sum: f32 = tokens.iter().map(|&(_, value)| value).sum();
    for (_, value) in tokens {
        *value /= sum;
    }
}

/// A [`TokenSampler`] with its random state.
#[derive(Clone, Debug)]
pub struct TokenGenerator {
    sampler: TokenSampler,
    random: Pcg64Mcg,
}

impl TokenGenerator {
    /// The next token, from the logits of the vocabulary and the tokens so far.
    ///
    /// # Errors
    /// When no logit is a number.
    pub fn choose(&mut self, logits: &[f32], history: &[u32]) -> Result<u32> {
        let tokens = self.sampler.distribution(logits, history)?;
        let mut draw = (self.random.next_u64() >> 11) as f32 / (1u64 << 53) as f32;
        for &(token, probability) in &tokens {
            if draw < probability {
                return Ok(token);
            }
            draw -= probability;
        }
        // Rounding may leave a rest; the last token that may be chosen takes it.
        tokens.last().map(|&(token, _)| token).ok_or(Error::NotFinite { stage: "logits".into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, -1.0, 0.0];

    fn tokens(sampler: &TokenSampler, history: &[u32]) -> Vec<u32> {
        let kept = sampler.distribution(&LOGITS, history).unwrap();
        assert!((kept.iter().map(|(_, p)| p).sum::<f32>() - 1.0).abs() < 1e-6);
        kept.into_iter().map(|(token, _)| token).collect()
    }

    fn warm() -> TokenSampler {
        TokenSampler { temperature: 1.0, ..TokenSampler::default() }
    }

    #[test]
    fn greedy_takes_the_likeliest_and_the_first_of_equals() {
        assert_eq!(tokens(&TokenSampler::default(), &[]), [1]);
        let choice = TokenSampler::default().generator(3).choose(&[0.0, 5.0, 5.0], &[]).unwrap();
        assert_eq!(choice, 1);
    }

    #[test]
    fn each_filter_keeps_what_its_definition_says() {
        // softmax: 0.0861 0.6364 0.2341 0.0117 0.0317
        assert_eq!(tokens(&warm(), &[]), [1, 2, 0, 4, 3]);
        assert_eq!(tokens(&TokenSampler { top_k: 2, ..warm() }, &[]), [1, 2]);
        assert_eq!(tokens(&TokenSampler { top_k: 9, ..warm() }, &[]).len(), 5);
        assert_eq!(tokens(&TokenSampler { top_p: 0.63, ..warm() }, &[]), [1]);
        assert_eq!(tokens(&TokenSampler { top_p: 0.64, ..warm() }, &[]), [1, 2]);
        assert_eq!(tokens(&TokenSampler { min_p: 0.3, ..warm() }, &[]), [1, 2]);
        assert_eq!(tokens(&TokenSampler { min_p: 1.0, ..warm() }, &[]), [1]);
    }

    #[test]
    fn repetition_lowers_logits_of_either_sign() {
        let sampler = TokenSampler { repetition_penalty: 4.0, ..TokenSampler::default() };
        assert_eq!(tokens(&sampler, &[1]), [2]);
        let negative = sampler.distribution(&[-1.0, -2.0], &[0]).unwrap();
        assert_eq!(negative[0].0, 1);
    }

    #[test]
    fn draws_follow_the_distribution_and_the_seed() {
        let sampler = warm();
        let draw = |seed| {
            let mut generator = sampler.generator(seed);
            (0..20_000).map(|_| generator.choose(&LOGITS, &[]).unwrap()).collect::<Vec<u32>>()
        };
        let draws = draw(7);
        assert_eq!(draws, draw(7));
        assert_ne!(draws, draw(8));
        for (token, probability) in sampler.distribution(&LOGITS, &[]).unwrap() {
            let share = draws.iter().filter(|&&drawn| drawn == token).count() as f32 / 20_000.0;
            assert!((share - probability).abs() < 0.015, "{token}: {share} {probability}");
        }
    }

    #[test]
    fn values_out_of_range_are_refused_by_name() {
        for (sampler, name) in [
            (TokenSampler { temperature: -1.0, ..warm() }, "temperature"),
            (TokenSampler { temperature: f32::INFINITY, ..warm() }, "temperature"),
            (TokenSampler { top_p: f32::NAN, ..warm() }, "top_p"),
            (TokenSampler { top_p: 0.0, ..warm() }, "top_p"),
            (TokenSampler { min_p: 1.5, ..warm() }, "min_p"),
            (TokenSampler { repetition_penalty: 0.0, ..warm() }, "repetition_penalty"),
        ] {
            assert!(sampler.validate().unwrap_err().to_string().contains(name));
        }
        assert!(TokenSampler::default().validate().is_ok());
    }

    #[test]
    fn no_number_is_an_error_and_some_nan_is_skipped() {
        assert!(warm().distribution(&[f32::NAN, f32::NAN], &[]).is_err());
        assert!(warm().distribution(&[], &[]).is_err());
        assert_eq!(warm().generator(0).choose(&[f32::NAN, 1.0], &[]).unwrap(), 1);
    }
}
