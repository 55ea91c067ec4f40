//! An encoder that needs no model: a text's vector is the sum of its words' random directions, so that texts of the
//! same words are near. It counts what it embeds.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicUsize, Ordering};

use engram_memory::lexical::for_each_token;
use engram_memory::{Embedder, Result, Side};

#[derive(Default)]
pub(crate) struct WordVectors {
    pub(crate) texts: AtomicUsize,
}

impl Embedder for WordVectors {
    fn name(&self) -> &str {
        "word-vectors"
    }

    fn dim(&self) -> usize {
        64
    }

    fn embed(&self, texts: &[&str], _side: Side) -> Result<Vec<Vec<f32>>> {
        self.texts.fetch_add(texts.len(), Ordering::SeqCst);
        Ok(texts.iter().map(|text| vector(text, self.dim())).collect())
    }
}

fn vector(text: &str, dim: usize) -> Vec<f32> {
    let mut sum = vec![0.0; dim];
    sum[0] = 1e-3;
    for_each_token(text, |token| {
        let mut hasher = DefaultHasher::new();
        token.hash(&mut hasher);
        let mut state = hasher.finish();
        for value in &mut sum {
            // The generator of Knuth's MMIX; its high bits are the random ones.
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            *value += ((state >> 40) % 2001) as f32 / 1000.0 - 1.0;
        }
    });
    let length = sum.iter().map(|value| value * value).sum::<f32>().sqrt();
    sum.iter().map(|value| value / length).collect()
}
