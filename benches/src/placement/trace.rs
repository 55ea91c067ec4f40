//! Conversations as they come: many begin with instructions that others have too, some are one question.

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde_json::{Map, Value, json};

/// What the traffic is made of.
#[derive(Debug, Clone, PartialEq)]
pub struct Traffic {
    /// Requests a second, on average.
    pub rate: f64,
    /// How long conversations begin.
    pub seconds: f64,
    /// Different instructions; the k-th most used one comes up in proportion to 1/k.
    pub instructions: usize,
    /// Share of conversations that have the first instructions, beside what 1/k gives them.
    pub hot: f64,
    /// Where the numbers come from.
    pub seed: u64,
}

/// Share of conversations that are one short question without instructions.
const SHORT: f64 = 0.25;
/// And one long question without instructions, such as a file to explain.
const LONG: f64 = 0.05;
/// Mean questions of the other conversations, and the most.
const MEAN_TURNS: f64 = 4.0;
const MOST_TURNS: usize = 24;
/// Mean seconds from an answer to the next question.
const THINKING: f64 = 15.0;

/// One question and its answer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Turn {
    /// Tokens of the question.
    pub question: u32,
    /// Tokens of the answer.
    pub answer: u32,
    /// Seconds before it is asked, from the answer before.
    pub thinking: f64,
}

/// A conversation, all of it known beforehand: every policy meets the same.
#[derive(Debug, Clone, PartialEq)]
pub struct Conversation {
    /// Which it is.
    pub id: u64,
    /// Seconds from the beginning.
    pub start: f64,
    /// Which instructions, and how many tokens they have.
    pub instructions: Option<(u64, u32)>,
    /// One or more.
    pub turns: Vec<Turn>,
}

impl Traffic {
    /// The conversations in order of their start.
    pub fn conversations(&self) -> Vec<Conversation> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        let zipf: Vec<f64> = (1..=self.instructions.max(1))
            .scan(0.0, |sum, rank| {
                *sum += 1.0 / rank as f64;
                Some(*sum)
            })
            .collect();
        let mean_requests = SHORT + LONG + (1.0 - SHORT - LONG) * MEAN_TURNS;
        let between = mean_requests / self.rate;
        let mut conversations = Vec::new();
        let mut start = 0.0;
        loop {
            start += exponential(&mut rng, between);
            if start >= self.seconds {
                return conversations;
            }
            conversations.push(self.conversation(&mut rng, conversations.len() as u64, start, &zipf));
        }
    }

    fn conversation(&self, rng: &mut ChaCha8Rng, id: u64, start: f64, zipf: &[f64]) -> Conversation {
        let kind: f64 = rng.random();
        let one = |question| vec![Turn { question, answer: 0, thinking: 0.0 }];
        let (instructions, mut turns) = if kind < SHORT {
            (None, one(rng.random_range(20..100)))
        } else if kind < SHORT + LONG {
            (None, one(rng.random_range(2000..6000)))
        } else {
            let hot = rng.random::<f64>() < self.hot;
            let at = rng.random::<f64>() * zipf.last().copied().unwrap_or(1.0);
            let rank = if hot { 0 } else { zipf.partition_point(|&sum| sum < at) };
            // Lengths belong to the instructions, not to who uses them.
            let tokens = ChaCha8Rng::seed_from_u64(self.seed ^ (rank as u64 + 1) << 20).random_range(300..4000);
            let mut turns = Vec::new();
            while turns.is_empty() || turns.len() < MOST_TURNS && rng.random::<f64>() > 1.0 / MEAN_TURNS {
                let thinking = if turns.is_empty() { 0.0 } else { exponential(rng, THINKING) };
                turns.push(Turn { question: rng.random_range(30..600), answer: 0, thinking });
            }
            (Some((rank as u64, tokens)), turns)
        };
        turns.iter_mut().for_each(|turn| turn.answer = rng.random_range(50..400));
        Conversation { id, start, instructions, turns }
    }
}

fn exponential(rng: &mut ChaCha8Rng, mean: f64) -> f64 {
    -mean * (1.0 - rng.random::<f64>()).ln()
}

impl Conversation {
    /// The prompt of a turn, part by part: what it is called in a node's cache, and its tokens.
    ///
    /// A part's name is that of everything up to its end.
    pub fn prompt(&self, turn: usize) -> impl Iterator<Item = (u64, u32)> + '_ {
        let parts = (0..=turn).flat_map(move |at| {
            let Turn { question, .. } = self.turns[at];
            let answered = (at > 0).then(|| (self.part(2 * at), self.turns[at - 1].answer));
            answered.into_iter().chain([(self.part(2 * at + 1), question)])
        });
        self.instructions.into_iter().chain(parts)
    }

    /// What a turn's answer is called, once it stands in the cache.
    pub fn answer(&self, turn: usize) -> (u64, u32) {
        (self.part(2 * turn + 2), self.turns[turn].answer)
    }

    fn part(&self, at: usize) -> u64 {
        // Instructions have the small names.
        (self.id + 1) << 24 | at as u64
    }

    /// The request body of a turn, as a client would send it. A token of the model here is four bytes of text.
    pub fn body(&self, turn: usize) -> Map<String, Value> {
        let mut messages = Vec::new();
        if let Some((rank, tokens)) = self.instructions {
            messages.push(json!({"role": "system", "content": text(&format!("instructions {rank} "), tokens)}));
        }
        for (at, Turn { question, answer, .. }) in self.turns[..=turn].iter().enumerate() {
            messages
                .push(json!({"role": "user", "content": text(&format!("question {at} of {} ", self.id), *question)}));
            if at < turn {
                messages.push(json!({"role": "assistant", "content": text("answer ", *answer)}));
            }
        }
        let mut body = Map::new();
        body.insert("messages".into(), messages.into());
        body
    }
}

fn text(words: &str, tokens: u32) -> String {
    let bytes = tokens as usize * 4;
    let mut text = words.repeat(bytes / words.len() + 1);
    text.truncate(bytes);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn traffic() -> Traffic {
        Traffic { rate: 50.0, seconds: 400.0, instructions: 1000, hot: 0.0, seed: 7 }
    }

    #[test]
    fn a_seed_is_a_trace() {
        let (one, two) = (traffic().conversations(), traffic().conversations());
        assert_eq!(one, two);
        let other = Traffic { seed: 8, ..traffic() }.conversations();
        assert_ne!(one, other);
    }

    #[test]
    fn traffic_is_what_was_asked_for() {
        let conversations = traffic().conversations();
        let requests: usize = conversations.iter().map(|talk| talk.turns.len()).sum();
        let rate = requests as f64 / 400.0;
        assert!((45.0..55.0).contains(&rate), "{rate} requests a second");
        let first = |hot: f64| {
            let talks = Traffic { hot, ..traffic() }.conversations();
            let with: Vec<u64> = talks.iter().filter_map(|talk| talk.instructions).map(|(rank, _)| rank).collect();
            with.iter().filter(|&&rank| rank == 0).count() as f64 / with.len() as f64
        };
        // 1/k over a thousand: the first has 1/7.49.
        assert!((0.10..0.17).contains(&first(0.0)), "{}", first(0.0));
        assert!((0.43..0.53).contains(&first(0.4)), "{}", first(0.4));
    }

    #[test]
    fn a_prompt_grows_from_its_own_beginning() {
        let conversations = traffic().conversations();
        let talk = conversations.iter().find(|talk| talk.turns.len() > 2).expect("a long one");
        let (first, second) = (talk.prompt(0).collect::<Vec<_>>(), talk.prompt(1).collect::<Vec<_>>());
        assert_eq!(second[..first.len()], first);
        assert_eq!(second[first.len()], talk.answer(0));
        assert_eq!(talk.body(1)["messages"].as_array().map(Vec::len), Some(4));
    }
}
