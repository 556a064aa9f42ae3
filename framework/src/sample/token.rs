//! Choosing the next token from logits.

use crate::{Error, Result};
use rand_core::{RngCore, SeedableRng};
use rand_pcg::Pcg64Mcg;
use serde::Deserialize;
use std::collections::{BTreeMap, HashMap};

/// How the next token is chosen. Applied in the order of the fields, as transformers and vLLM do.
///
/// ```
/// use framework::sample::{History, TokenSampler};
/// let greedy = TokenSampler::default();
/// assert_eq!(greedy.generator(0).choose(&[0.1, 2.0, -1.0], History::default())?, 1);
/// # Ok::<(), framework::Error>(())
/// ```
#[derive(Clone, Debug, Deserialize, PartialEq)]
#[serde(default, deny_unknown_fields)]
pub struct TokenSampler {
    /// Added to the logits of these tokens.
    pub logit_bias: BTreeMap<u32, f32>,
    /// Divides positive logits of tokens that occurred, multiplies negative ones; 1 is off
    /// (<https://arxiv.org/abs/1909.05858>).
    pub repetition_penalty: f32,
    /// Taken from a logit for each time that its token was generated, from −2 to 2; 0 is off. As OpenAI defines it and
    /// vLLM computes it; the prompt does not count.
    pub frequency_penalty: f32,
    /// Taken from the logits of tokens that were generated, however often, from −2 to 2; 0 is off.
    pub presence_penalty: f32,
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
        Self {
            logit_bias: BTreeMap::new(),
            repetition_penalty: 1.0,
            frequency_penalty: 0.0,
            presence_penalty: 0.0,
            temperature: 0.0,
            top_k: 0,
            top_p: 1.0,
            min_p: 0.0,
        }
    }
}

/// The tokens so far.
#[derive(Clone, Copy, Debug, Default)]
pub struct History<'a> {
    /// Those that were given.
    pub prompt: &'a [u32],
    /// Those that were chosen.
    pub generated: &'a [u32],
}

impl History<'_> {
    /// How often each token was generated: 0 for one that only the prompt has, nothing for one that did not occur.
    fn counts(&self) -> HashMap<u32, f32> {
        let mut counts: HashMap<u32, f32> = self.prompt.iter().map(|&token| (token, 0.0)).collect();
        for &token in self.generated {
            *counts.entry(token).or_default() += 1.0;
        }
        counts
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
        for (token, &bias) in &self.logit_bias {
            check("logit_bias", bias, &format!("finite, for token {token}"), true)?;
        }
        check("repetition_penalty", self.repetition_penalty, "above 0", self.repetition_penalty > 0.0)?;
        for (name, penalty) in
            [("frequency_penalty", self.frequency_penalty), ("presence_penalty", self.presence_penalty)]
        {
            check(name, penalty, "from -2 to 2", (-2.0..=2.0).contains(&penalty))?;
        }
        check("temperature", self.temperature, "0 or more", self.temperature >= 0.0)?;
        check("top_p", self.top_p, "above 0 and at most 1", self.top_p > 0.0 && self.top_p <= 1.0)?;
        check("min_p", self.min_p, "from 0 to 1", (0.0..=1.0).contains(&self.min_p))
    }

    /// Whether the likeliest token is taken and nothing changes the logits: no need to read them from the device.
    pub fn is_argmax(&self) -> bool {
        let Self { logit_bias, repetition_penalty, frequency_penalty, presence_penalty, temperature, .. } = self;
        *temperature == 0.0
            && logit_bias.is_empty()
            && *repetition_penalty == 1.0
            && *frequency_penalty == 0.0
            && *presence_penalty == 0.0
    }

    /// A seeded stream of choices.
    pub fn generator(&self, seed: u64) -> TokenGenerator {
        TokenGenerator { sampler: self.clone(), random: Pcg64Mcg::seed_from_u64(seed) }
    }

    /// A logit after the penalties of its token, which was generated `count` times and may be of the prompt.
    fn penalised(&self, logit: f32, count: f32) -> f32 {
        let repeated = if logit > 0.0 { logit / self.repetition_penalty } else { logit * self.repetition_penalty };
        let present = if count > 0.0 { self.presence_penalty } else { 0.0 };
        repeated - self.frequency_penalty * count - present
    }

    /// Tokens with their logits after biases and penalties.
    fn adjusted(&self, logits: &[f32], history: History<'_>) -> Vec<(u32, f32)> {
        let mut tokens: Vec<(u32, f32)> = (0..).zip(logits.iter().copied()).collect();
        let mut adjust = |token: u32, change: &dyn Fn(f32) -> f32| {
            if let Some((_, logit)) = tokens.get_mut(token as usize) {
                *logit = change(*logit);
            }
        };
        for (&token, bias) in &self.logit_bias {
            adjust(token, &|logit| logit + bias);
        }
        for (token, count) in history.counts() {
            adjust(token, &|logit| self.penalised(logit, count));
        }
        tokens
    }

    /// The tokens that may be chosen, likeliest first, with their probabilities. A logit of −∞ is of a token that may
    /// not.
    ///
    /// # Errors
    /// When no logit is a number.
    pub fn distribution(&self, logits: &[f32], history: History<'_>) -> Result<Vec<(u32, f32)>> {
        let mut tokens = self.adjusted(logits, history);
        tokens.retain(|(_, logit)| !logit.is_nan() && *logit != f32::NEG_INFINITY);
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
        if self.top_p < 1.0 {
            let mut reached = 0.0;
            let nucleus = tokens.iter().take_while(|(_, probability)| {
                let before = reached;
                reached += probability;
                before < self.top_p
            });
            let nucleus = nucleus.count();
            tokens.truncate(nucleus.max(1));
        }
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
    pub fn choose(&mut self, logits: &[f32], history: History<'_>) -> Result<u32> {
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

    const NEW: History<'_> = History { prompt: &[], generated: &[] };

    fn tokens(sampler: &TokenSampler, prompt: &[u32]) -> Vec<u32> {
        let kept = sampler.distribution(&LOGITS, History { prompt, ..NEW }).unwrap();
        assert!((kept.iter().map(|(_, p)| p).sum::<f32>() - 1.0).abs() < 1e-6);
        kept.into_iter().map(|(token, _)| token).collect()
    }

    fn warm() -> TokenSampler {
        TokenSampler { temperature: 1.0, ..TokenSampler::default() }
    }

    #[test]
    fn greedy_takes_the_likeliest_and_the_first_of_equals() {
        assert_eq!(tokens(&TokenSampler::default(), &[]), [1]);
        let choice = TokenSampler::default().generator(3).choose(&[0.0, 5.0, 5.0], NEW).unwrap();
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
        let negative = sampler.distribution(&[-1.0, -2.0], History { prompt: &[0], ..NEW }).unwrap();
        assert_eq!(negative[0].0, 1);
    }

    #[test]
    fn whatever_changes_a_logit_keeps_the_choice_from_being_the_largest() {
        let plain = TokenSampler::default();
        assert!(plain.is_argmax());
        for sampler in [
            TokenSampler { logit_bias: BTreeMap::from([(3, 9.0)]), ..plain.clone() },
            TokenSampler { frequency_penalty: 0.1, ..plain.clone() },
            TokenSampler { presence_penalty: 0.1, ..plain.clone() },
            TokenSampler { repetition_penalty: 1.1, ..plain.clone() },
        ] {
            assert!(!sampler.is_argmax(), "{sampler:?}");
        }
        assert_eq!(tokens(&TokenSampler { logit_bias: BTreeMap::from([(3, 9.0)]), ..plain }, &[]), [3]);
    }

    #[test]
    fn what_has_no_probability_is_never_drawn() {
        let logits = [f32::NEG_INFINITY, 0.0, f32::NEG_INFINITY];
        let sampler = TokenSampler { top_k: 2, ..warm() };
        assert_eq!(sampler.distribution(&logits, NEW).unwrap(), [(1, 1.0)]);
        assert!(sampler.distribution(&[f32::NEG_INFINITY], NEW).is_err());
    }

    #[test]
    fn draws_follow_the_distribution_and_the_seed() {
        let sampler = warm();
        let draw = |seed| {
            let mut generator = sampler.generator(seed);
            (0..20_000).map(|_| generator.choose(&LOGITS, NEW).unwrap()).collect::<Vec<u32>>()
        };
        let draws = draw(7);
        assert_eq!(draws, draw(7));
        assert_ne!(draws, draw(8));
        for (token, probability) in sampler.distribution(&LOGITS, NEW).unwrap() {
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
            (TokenSampler { frequency_penalty: 2.5, ..warm() }, "frequency_penalty"),
            (TokenSampler { presence_penalty: f32::NAN, ..warm() }, "presence_penalty"),
            (TokenSampler { logit_bias: BTreeMap::from([(7, f32::INFINITY)]), ..warm() }, "token 7"),
        ] {
            assert!(sampler.validate().unwrap_err().to_string().contains(name));
        }
        assert!(TokenSampler::default().validate().is_ok());
    }

    #[test]
    fn no_number_is_an_error_and_some_nan_is_skipped() {
        assert!(warm().distribution(&[f32::NAN, f32::NAN], NEW).is_err());
        assert!(warm().distribution(&[], NEW).is_err());
        assert_eq!(warm().generator(0).choose(&[f32::NAN, 1.0], NEW).unwrap(), 1);
    }
}
