//! Which language a file is in, by its name or its first line.

use super::grammar::{self, Grammar};

/// A language.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Language {
    /// Its name, lower case (`rust`).
    pub name: &'static str,
    /// Written for people to read: a document rather than code.
    pub prose: bool,
}

impl Language {
    const TEXT: Self = Self { name: "text", prose: true };

    pub(super) fn grammar(self) -> Option<&'static Grammar> {
        grammar::of(self.name)
    }
}

/// Extension (lower case) to name. `h` is read as C++, whose grammar takes C too.
const EXTENSIONS: &[(&str, &[&str])] = &[
    ("rust", &["rs"]),
    ("python", &["py", "pyi", "pyw"]),
    ("typescript", &["ts", "mts", "cts"]),
    ("tsx", &["tsx"]),
    ("javascript", &["js", "mjs", "cjs", "jsx"]),
    ("go", &["go"]),
    ("java", &["java"]),
    ("c", &["c"]),
    ("cpp", &["cpp", "cc", "cxx", "c++", "hpp", "hh", "hxx", "h", "cu", "cuh", "inl", "ipp"]),
    ("markdown", &["md", "markdown", "mdx"]),
    ("shell", &["sh", "bash", "zsh", "fish"]),
    ("ruby", &["rb"]),
    ("php", &["php"]),
    ("csharp", &["cs"]),
    ("kotlin", &["kt", "kts"]),
    ("swift", &["swift"]),
    ("scala", &["scala"]),
    ("lua", &["lua"]),
    ("perl", &["pl", "pm"]),
    ("haskell", &["hs"]),
    ("ocaml", &["ml", "mli"]),
    ("elixir", &["ex", "exs"]),
    ("erlang", &["erl"]),
    ("zig", &["zig"]),
    ("assembly", &["s", "asm"]),
    ("sql", &["sql"]),
    ("html", &["html", "htm", "vue", "svelte"]),
    ("css", &["css", "scss", "less"]),
    ("json", &["json", "jsonc", "json5"]),
    ("toml", &["toml"]),
    ("yaml", &["yaml", "yml"]),
    ("xml", &["xml"]),
    ("protobuf", &["proto"]),
    ("cmake", &["cmake"]),
    ("terraform", &["tf", "hcl"]),
    ("make", &["mk"]),
    ("ini", &["ini", "cfg", "conf", "properties", "env"]),
];

/// Prose that has no grammar of ours.
const PROSE: &[(&str, &[&str])] =
    &[("text", &["txt", "text"]), ("restructuredtext", &["rst"]), ("asciidoc", &["adoc"]), ("org", &["org"])];

/// Whole file names.
const NAMES: &[(&str, &str)] = &[
    ("makefile", "make"),
    ("dockerfile", "docker"),
    ("cmakelists.txt", "cmake"),
    ("jenkinsfile", "groovy"),
    ("gemfile", "ruby"),
    ("rakefile", "ruby"),
];

/// Interpreter in a `#!` line, its version digits cut off.
const INTERPRETERS: &[(&str, &str)] = &[
    ("python", "python"),
    ("pypy", "python"),
    ("node", "javascript"),
    ("deno", "typescript"),
    ("sh", "shell"),
    ("bash", "shell"),
    ("zsh", "shell"),
    ("dash", "shell"),
    ("ruby", "ruby"),
    ("perl", "perl"),
    ("lua", "lua"),
    ("php", "php"),
];

/// The language of the file at `path` that begins with `text`: by name, by extension, by `#!`, else `text`.
pub fn language_of(path: &str, text: &str) -> Language {
    let name = path.rsplit('/').next().unwrap_or(path).to_ascii_lowercase();
    let code = |name| Language { name, prose: false };
    if let Some((_, language)) = NAMES.iter().find(|(known, _)| *known == name) {
        return code(language);
    }
    if let Some((_, extension)) = name.rsplit_once('.') {
        let of = |table: &[(&'static str, &[&str])]| {
            table.iter().find(|(_, extensions)| extensions.contains(&extension)).map(|(name, _)| *name)
        };
        if let Some(name) = of(EXTENSIONS) {
            return Language { name, prose: name == "markdown" };
        }
        if let Some(name) = of(PROSE) {
            return Language { name, prose: true };
        }
    }
    let first = text.lines().next().unwrap_or_default();
    let interpreter = first.strip_prefix("#!").and_then(|line| {
        line.split_whitespace().map(|word| word.rsplit('/').next().unwrap_or(word)).find(|word| {
            *word != "env" && !word.starts_with('-') // `env -S python3 -u`
        })
    });
    let bare = interpreter.map(|word| word.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.'));
    match bare.and_then(|word| INTERPRETERS.iter().find(|(known, _)| *known == word)) {
        Some((_, language)) => code(language),
        None => Language::TEXT,
    }
}
