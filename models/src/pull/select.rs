//! Which files of a repository or a folder make up the model.

use crate::catalog::FileRole;

use super::error::PullError;

/// Quantisations in the order they are preferred where none was named: small and near lossless first.
const PREFERRED: [&str; 19] = [
    "Q4_K_M", "Q4_K_S", "Q5_K_M", "Q4_1", "Q4_0", "Q5_K_S", "Q5_0", "Q5_1", "Q6_K", "Q8_0", "Q3_K_L", "Q3_K_M",
    "Q3_K_S", "Q2_K", "F16", "FP16", "BF16", "F32", "FP32",
];

/// The quantisation that asks for the unquantised files of a repository that has both.
const SAFETENSORS: &str = "safetensors";

/// Where sentence-transformers says how an encoder pools.
pub(crate) const POOLING: &str = "1_Pooling/config.json";

/// A file that belongs to the model, by its path in the repository.
pub(crate) type Selected = (FileRole, String);

/// Chooses from the paths of `repo`: one GGUF where there is one, else the safetensors with what they need.
pub(crate) fn select(repo: &str, paths: &[String], quant: Option<&str>) -> Result<Vec<Selected>, PullError> {
    let wants_safetensors = quant.is_some_and(|quant| quant.eq_ignore_ascii_case(SAFETENSORS));
    let ggufs: Vec<&String> = paths.iter().filter(|path| is_model_gguf(path)).collect();
    if !ggufs.is_empty() && !wants_safetensors {
        return Ok(vec![(FileRole::Weights, select_gguf(repo, &ggufs, quant)?)]);
    }
    match (quant, select_safetensors(paths)) {
        (Some(quant), _) if !wants_safetensors => Err(no_match(repo, format!("GGUF file of type {quant}"), paths)),
        (_, Some(selected)) => Ok(selected),
        (_, None) => Err(no_match(repo, "GGUF file, and no config.json with safetensors".to_string(), paths)),
    }
}

fn select_gguf(repo: &str, ggufs: &[&String], quant: Option<&str>) -> Result<String, PullError> {
    let wanted: &[&str] = match &quant {
        Some(quant) => std::slice::from_ref(quant),
        None => &PREFERRED,
    };
    for quant in wanted {
        let mut matching: Vec<&&String> = ggufs.iter().filter(|path| has_quant(path, quant)).collect();
        matching.sort_by_key(|path| (is_split(path), path.len(), path.to_string()));
        match matching.first() {
            Some(path) if is_split(path) => {
                return Err(PullError::SplitGguf { file: path.to_string() });
            }
            Some(path) => return Ok(path.to_string()),
            None => {}
        }
    }
    match (quant, ggufs) {
        (None, [only]) => Ok(only.to_string()), // its types are checked when it is read
        _ => {
            let names: Vec<String> = ggufs.iter().map(|path| path.to_string()).collect();
            Err(no_match(repo, format!("GGUF file of type {}", quant.unwrap_or("that is read here")), &names))
        }
    }
}

fn select_safetensors(paths: &[String]) -> Option<Vec<Selected>> {
    let has = |name: &str| paths.iter().any(|path| path == name);
    if !has("config.json") {
        return None;
    }
    let mut shards: Vec<&String> = paths.iter().filter(|path| is_shard(path)).collect();
    shards.sort();
    let weights = if has("model.safetensors") {
        vec!["model.safetensors".to_string()]
    } else {
        shards.into_iter().cloned().collect()
    };
    if weights.is_empty() {
        return None;
    }
    let mut selected: Vec<Selected> = weights.into_iter().map(|path| (FileRole::Weights, path)).collect();
    for path in paths {
        let role = match path.as_str() {
            "tokenizer.json" => FileRole::Tokenizer,
            "tokenizer_config.json" => FileRole::TokenizerConfig,
            "config.json" => FileRole::Config,
            "generation_config.json" => FileRole::GenerationConfig,
            "chat_template.jinja" => FileRole::ChatTemplate,
            POOLING => FileRole::Pooling,
            "model.safetensors.index.json" | "special_tokens_map.json" => FileRole::Other,
            _ => continue,
        };
        selected.push((role, path.clone()));
    }
    Some(selected)
}

/// A GGUF with a model in it, not an image projector or an importance matrix.
fn is_model_gguf(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    name.ends_with(".gguf") && !name.contains("mmproj") && !name.contains("imatrix")
}

/// `model-00001-of-00003.safetensors`.
fn is_shard(path: &str) -> bool {
    path.strip_prefix("model-").and_then(|rest| rest.strip_suffix(".safetensors")).is_some_and(is_part_number)
}

/// Whether a GGUF is one part of several, by the usual name `x-00001-of-00002.gguf`.
pub(crate) fn is_split(path: &str) -> bool {
    let stem = path.rsplit('/').next().unwrap_or(path);
    let Some((stem, _)) = stem.rsplit_once('.') else {
        return false;
    };
    let Some(cut) = stem.len().checked_sub("00001-of-00002".len()) else {
        return false;
    };
    stem.get(cut..).is_some_and(is_part_number) && !stem.ends_with("00001-of-00001")
}

fn is_part_number(text: &str) -> bool {
    let digits = |part: &str| part.len() == 5 && part.bytes().all(|b| b.is_ascii_digit());
    matches!(text.split_once("-of-"), Some((part, of)) if digits(part) && digits(of))
}

/// Whether the file name carries this quantisation as a word of its own: `Q4_K` is not in `x-Q4_K_M.gguf`.
fn has_quant(path: &str, quant: &str) -> bool {
    let name = path.to_ascii_uppercase();
    let quant = quant.to_ascii_uppercase();
    name.match_indices(&quant).any(|(at, _)| {
        let before = name[..at].chars().next_back();
        let after = name[at + quant.len()..].chars().next();
        let joined = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric() || c == '_');
        !joined(before) && !joined(after)
    })
}

fn no_match(repo: &str, wanted: String, paths: &[String]) -> PullError {
    let is_model = |path: &&String| path.ends_with(".gguf") || path.ends_with(".safetensors");
    PullError::NoMatchingFile {
        repo: repo.to_string(),
        wanted,
        available: paths.iter().filter(is_model).cloned().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(paths: &[&str], quant: Option<&str>, expected: &str) {
        let paths: Vec<String> = paths.iter().map(|path| path.to_string()).collect();
        let got = match select("o/r", &paths, quant) {
            Ok(selected) => selected.into_iter().map(|(_, path)| path).collect::<Vec<_>>().join(" "),
            Err(PullError::SplitGguf { file }) => format!("split {file}"),
            Err(PullError::NoMatchingFile { wanted, .. }) => format!("no {wanted}"),
            Err(error) => error.to_string(),
        };
        assert_eq!(got, expected, "{paths:?} {quant:?}");
    }

    #[test]
    fn the_right_files_are_chosen() {
        let qwen = ["README.md", "x-q2_k.gguf", "x-q4_k_m.gguf", "x-q8_0.gguf", "x-fp16.gguf"];
        check(&qwen, None, "x-q4_k_m.gguf");
        check(&qwen, Some("Q8_0"), "x-q8_0.gguf");
        check(&qwen, Some("Q4_K"), "no GGUF file of type Q4_K");
        check(&["x.Q4_K_M.gguf", "x.Q4_K_M-00001-of-00002.gguf"], None, "x.Q4_K_M.gguf");
        check(
            &["x-Q4_K_M-00001-of-00002.gguf", "x-Q4_K_M-00002-of-00002.gguf"],
            None,
            "split x-Q4_K_M-00001-of-00002.gguf",
        );
        check(&["BF16/x-BF16-00001-of-00002.gguf", "x-Q6_K.gguf"], None, "x-Q6_K.gguf");
        check(&["mmproj-f16.gguf", "x-f16.gguf"], None, "x-f16.gguf");
        check(&["x-IQ2_XS.gguf", "x-IQ4_NL.gguf"], None, "no GGUF file of type that is read here");
        check(&["model.gguf"], None, "model.gguf");
        check(&["a-UD-Q4_K_XL.gguf", "a-Q5_K_M.gguf"], None, "a-Q5_K_M.gguf");
        check(
            &["config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "tokenizer.json"],
            None,
            "model-00001-of-00002.safetensors model-00002-of-00002.safetensors config.json tokenizer.json",
        );
        check(&["config.json", "model.safetensors", "pytorch_model.bin"], None, "model.safetensors config.json");
        check(
            &["config.json", "model.safetensors", "x-q4_0.gguf"],
            Some("safetensors"),
            "model.safetensors config.json",
        );
        check(&["config.json", "model.safetensors"], Some("Q4_0"), "no GGUF file of type Q4_0");
        check(
            &["1_Pooling/config.json", "config.json", "model.safetensors", "openvino/config.json"],
            None,
            "model.safetensors 1_Pooling/config.json config.json",
        );
        check(&["README.md"], None, "no GGUF file, and no config.json with safetensors");
        check(&[], None, "no GGUF file, and no config.json with safetensors");
    }

    #[test]
    fn odd_names_do_no_harm() {
        for name in ["", ".", "gguf", ".gguf", "é-00001-of-00002.gguf", "-of-.gguf", "ä00001-of-00002"] {
            let _ = (is_split(name), is_model_gguf(name), is_shard(name), has_quant(name, "Q4_0"));
        }
    }
}
