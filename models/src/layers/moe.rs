//! Sparse mixture of experts, as in Qwen3-MoE (<https://arxiv.org/abs/2505.09388>).

use candle_core::{Device, Result, Tensor};

use crate::error::ModelError;
use crate::layers::{GatedMlp, Linear, Loader, Norm};
use crate::workspace::{Stream, Workspace};

/// A router picks `experts_per_token` experts for each token; their outputs are added, weighted.
///
/// A token's experts are added in order of expert id, so its sum is the same in any batch.
pub struct SparseMoe {
    router: Linear,
    experts: Vec<GatedMlp>,
    experts_per_token: usize,
    norm_topk: bool,
}

impl SparseMoe {
    /// Loads `blk.{layer}.ffn_gate_inp` and `ffn_{gate,up,down}_exps`.
    pub fn load(loader: &Loader<'_>, layer: usize) -> std::result::Result<Self, ModelError> {
        let config = loader.config;
        let moe = config
            .moe
            .as_ref()
            .ok_or_else(|| ModelError::config("expert_count", "is missing, a mixture of experts needs it"))?;
        let name = |part: &str| format!("blk.{layer}.ffn_{part}_exps.weight");
        let (hidden, ffn) = (config.hidden, moe.expert_ffn);
        let expert = |e: usize| -> std::result::Result<GatedMlp, ModelError> {
            let gate_up = loader.expert_gate_up([&name("gate"), &name("up")], e, ffn, hidden)?;
            let down = loader.expert_matrix(&name("down"), e, hidden, ffn)?;
            Ok(GatedMlp::new(gate_up, Linear::new(vec![down], None)?))
        };
        Ok(Self {
            router: loader.linear(&[(format!("blk.{layer}.ffn_gate_inp"), moe.experts)], hidden)?,
            experts: (0..moe.experts).map(expert).collect::<std::result::Result<_, _>>()?,
            experts_per_token: moe.experts_per_token,
            norm_topk: moe.norm_topk,
        })
    }

    /// `[tokens, hidden] -> [tokens, hidden]`.
    pub fn forward(&self, x: &Tensor) -> Result<Tensor> {
        let mut rows: Vec<Vec<u32>> = vec![Vec::new(); self.experts.len()];
        let mut shares: Vec<Vec<f32>> = vec![Vec::new(); self.experts.len()];
        for (token, logits) in self.router.forward(x)?.to_vec2::<f32>()?.iter().enumerate() {
            for (expert, share) in self.choose(logits) {
                rows[expert].push(token as u32);
                shares[expert].push(share);
            }
        }
        let mut out = x.zeros_like()?;
        for ((expert, rows), shares) in self.experts.iter().zip(rows).zip(shares) {
            if rows.is_empty() {
                continue;
            }
            let count = rows.len();
            let rows = Tensor::from_vec(rows, count, x.device())?;
            let shares = Tensor::from_vec(shares, (count, 1), x.device())?;
            let y = expert.forward(&x.index_select(&rows, 0)?)?.broadcast_mul(&shares)?;
            out = out.index_add(&rows, &y, 0)?;
        }
        Ok(out)
    }

    /// The stream through `norm` and this, to `workspace.out`. Which rows an expert gets is decided by the pass, so this part goes
    /// through tensors.
    pub(crate) fn run(&self, norm: &Norm, rows: usize, workspace: &mut Workspace) -> Result<()> {
        let Workspace { hidden, normed, out, .. } = workspace;
        let x = norm.written(Stream { hidden, add: out, normed })?;
        let x = Tensor::from_slice(x, (rows, x.len() / rows.max(1)), &Device::Cpu)?;
        let y = self.forward(&x)?.flatten_all()?.to_vec1::<f32>()?;
        out.sized(y.len()).copy_from_slice(&y);
        Ok(())
    }

    /// The experts of one token and their shares: softmax over all, the largest k, renormalised where the
    /// model does. Ties go to the lower id.
    fn choose(&self, logits: &[f32]) -> Vec<(usize, f32)> {
        let max = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let exps: Vec<f32> = logits.iter().map(|l| (l - max).exp()).collect();
        let total: f32 = exps.iter().sum();
        let mut order: Vec<usize> = (0..exps.len()).collect();
        order.sort_by(|&a, &b| exps[b].total_cmp(&exps[a]).then(a.cmp(&b)));
        order.truncate(self.experts_per_token);
        let kept: f32 = order.iter().map(|&e| exps[e]).sum();
        let divisor = if self.norm_topk { kept } else { total };
        order.into_iter().map(|e| (e, exps[e] / divisor)).collect()
    }
}
