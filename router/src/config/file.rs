//! Config files: TOML with line numbers, `include`, `[vars]`.
//!
//! What a file includes counts as written before its own first line, so the file itself wins. Files are
//! read only if they are regular (no pipe can hang the start) and of at most 1 MiB; includes go at most 16 deep and
//! 64 in all, and a cycle is an error that prints it.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use super::families::{self, Family, Instance};
use super::interpolate::{ExpandError, Variables};
use super::keys::{self, Key, SECTIONS};
use super::suggest;
use super::{ConfigError, Origin, Raw, Stated, key_path};

const MAX_FILE_BYTES: u64 = 1 << 20;
const MAX_DEPTH: usize = 16;
const MAX_FILES: usize = 64;

/// What a file and its includes state, the weakest first, and what is wrong in them.
#[derive(Default)]
pub(super) struct Loaded {
    pub values: Vec<Stated>,
    /// The tables with free names, once each time they are named.
    pub tables: Vec<Instance>,
    pub errors: Vec<ConfigError>,
    files: usize,
}

/// Reads a file with all it includes.
pub(super) fn load(path: &Path, env: &BTreeMap<String, String>) -> Result<Loaded, ConfigError> {
    let mut loaded = Loaded::default();
    load_into(&mut loaded, path, env, &mut Vec::new())?;
    Ok(loaded)
}

fn load_into(
    loaded: &mut Loaded,
    path: &Path,
    env: &BTreeMap<String, String>,
    stack: &mut Vec<PathBuf>,
) -> Result<(), ConfigError> {
    let read_error = |reason: String| ConfigError::Read { path: path.to_owned(), reason };
    let real = path.canonicalize().map_err(|error| read_error(error.to_string()))?;
    if let Some(first) = stack.iter().position(|open| *open == real) {
        let mut chain = stack[first..].to_vec();
        chain.push(real);
        return Err(ConfigError::IncludeCycle { chain });
    }
    loaded.files += 1;
    if stack.len() >= MAX_DEPTH {
        let problem = format!("includes go more than {MAX_DEPTH} files deep");
        return Err(ConfigError::TooManyIncludes { path: path.to_owned(), problem });
    }
    if loaded.files > MAX_FILES {
        let problem = format!("more than {MAX_FILES} files are included in all");
        return Err(ConfigError::TooManyIncludes { path: path.to_owned(), problem });
    }

    let text = read_capped(path).map_err(read_error)?;
    let table = DeTable::parse(&text).map_err(|error| syntax_error(path, &text, &error))?;
    let file = File { path, newlines: newlines(&text) };
    let vars = file.vars(table.get_ref(), &mut loaded.errors);
    let variables = Variables { env, vars: &vars };

    stack.push(real);
    for include in file.includes(table.get_ref(), &variables)? {
        load_into(loaded, &include, env, stack)?;
    }
    stack.pop();
    file.values(table.get_ref(), &variables, loaded);
    Ok(())
}

/// Text of a regular file of at most 1 MiB.
pub(super) fn read_capped(path: &Path) -> Result<String, String> {
    let metadata = path.metadata().map_err(|error| error.to_string())?;
    if !metadata.is_file() {
        return Err("not a regular file".into());
    }
    let file = std::fs::File::open(path).map_err(|error| error.to_string())?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(format!("larger than {MAX_FILE_BYTES} bytes"));
    }
    String::from_utf8(bytes).map_err(|error| format!("not UTF-8 at byte {}", error.utf8_error().valid_up_to()))
}

fn syntax_error(path: &Path, text: &str, error: &toml::de::Error) -> ConfigError {
    let at = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = text.get(..at).unwrap_or("");
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    ConfigError::Syntax {
        path: path.to_owned(),
        line: line_of(&newlines(text), at),
        column: before[line_start..].chars().count() + 1,
        // The parser quotes nothing of the file here, so nothing secret and nothing long can get into it.
        message: suggest::shorten_to(error.message(), 200),
    }
}

/// Where lines end.
fn newlines(text: &str) -> Vec<usize> {
    text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n').map(|(at, _)| at).collect()
}

fn line_of(newlines: &[usize], at: usize) -> usize {
    newlines.partition_point(|newline| *newline < at) + 1
}

/// The entries as they stand in the file: the parser keeps them sorted by name.
fn in_order<'t, 'a>(table: &'t DeTable<'a>) -> Vec<(&'t Spanned<DeString<'a>>, &'t Spanned<DeValue<'a>>)> {
    let mut entries: Vec<_> = table.iter().collect();
    entries.sort_by_key(|(name, _)| name.span().start);
    entries
}

struct File<'a> {
    path: &'a Path,
    newlines: Vec<usize>,
}

impl File<'_> {
    fn origin_of(&self, value: &Spanned<DeValue<'_>>) -> Origin {
        self.origin(value.span().start)
    }

    fn origin(&self, at: usize) -> Origin {
        Origin::File { path: self.path.to_owned(), line: line_of(&self.newlines, at) }
    }

    /// `[vars]`: strings only.
    fn vars(&self, table: &DeTable<'_>, errors: &mut Vec<ConfigError>) -> BTreeMap<String, String> {
        let mut vars = BTreeMap::new();
        let Some((_, value)) = table.iter().find(|(name, _)| name.get_ref() == "vars") else {
            return vars;
        };
        let Some(entries) = value.get_ref().as_table() else {
            errors.push(self.bad("vars", value, "is not a table; write [vars] and below it NAME = \"value\""));
            return vars;
        };
        for (name, value) in entries {
            match value.get_ref().as_str() {
                Some(text) => drop(vars.insert(name.get_ref().to_string(), text.to_owned())),
                None => errors.push(self.bad(&format!("vars.{}", name.get_ref()), value, "is not a string")),
            }
        }
        vars
    }

    /// The included files, relative to this one.
    fn includes(&self, table: &DeTable<'_>, variables: &Variables<'_>) -> Result<Vec<PathBuf>, ConfigError> {
        let Some((_, value)) = table.iter().find(|(name, _)| name.get_ref() == "include") else {
            return Ok(Vec::new());
        };
        let expected = "is not a list of files; write for example include = [\"base.toml\"]";
        let names = match self.raw("include", value, Some(variables))? {
            Raw::Text(name) => vec![Raw::Text(name)],
            Raw::List(names) => names,
            _ => return Err(self.bad("include", value, expected)),
        };
        let parent = self.path.parent().unwrap_or(Path::new(""));
        names
            .into_iter()
            .map(|name| match name {
                Raw::Text(name) if !name.contains('\0') && !name.is_empty() => Ok(parent.join(name)),
                _ => Err(self.bad("include", value, expected)),
            })
            .collect()
    }

    /// All keys of all sections and families.
    fn values(&self, table: &DeTable<'_>, variables: &Variables<'_>, loaded: &mut Loaded) {
        for (section, value) in in_order(table) {
            let name = section.get_ref().as_ref();
            if matches!(name, "include" | "vars") {
                continue;
            }
            let family = families::find(name);
            if family.is_none() && !SECTIONS.contains(&name) {
                loaded.errors.push(ConfigError::unknown_key(name, self.origin(section.span().start)));
                continue;
            }
            let Some(entries) = value.get_ref().as_table() else {
                let problem = match family {
                    Some(_) => format!("is a family of tables; write [{name}.NAME] on a line of its own"),
                    None => format!("is a section; write [{name}] on a line of its own"),
                };
                loaded.errors.push(self.bad(name, value, &problem));
                continue;
            };
            match family {
                Some(family) => self.family(family, entries, variables, loaded),
                None => self.section(name, entries, variables, loaded),
            }
        }
    }

    /// The keys of one section.
    fn section(&self, name: &str, entries: &DeTable<'_>, variables: &Variables<'_>, loaded: &mut Loaded) {
        for (short, value) in in_order(entries) {
            let full = format!("{name}.{}", short.get_ref());
            let Some(key) = keys::find(&full) else {
                loaded.errors.push(ConfigError::unknown_key(&full, self.origin(short.span().start)));
                continue;
            };
            match self.stated(key, None, value, variables) {
                Ok(stated) => loaded.values.push(stated),
                Err(error) => loaded.errors.push(error),
            }
        }
    }

    /// The tables of one family.
    fn family(&self, family: &'static Family, tables: &DeTable<'_>, variables: &Variables<'_>, loaded: &mut Loaded) {
        for (name, value) in in_order(tables) {
            let (name, origin) = (name.get_ref().as_ref(), self.origin(name.span().start));
            let path = family.path(name);
            let Some(entries) = value.get_ref().as_table() else {
                let problem = format!("is not a table; {} is one each: write [{}.NAME]", family.one, family.name);
                loaded.errors.push(self.bad(&path, value, &problem));
                continue;
            };
            loaded.tables.push(Instance::new(family, name, origin));
            for (short, value) in in_order(entries) {
                let Some(key) = family.find(short.get_ref()) else {
                    let origin = self.origin(short.span().start);
                    loaded.errors.push(ConfigError::unknown_in(family, &path, short.get_ref(), origin));
                    continue;
                };
                match self.stated(key, Some((family, name)), value, variables) {
                    Ok(stated) => loaded.values.push(stated),
                    Err(error) => loaded.errors.push(error),
                }
            }
        }
    }

    /// The value of a key, of a table with a free name if one is given.
    fn stated(
        &self,
        key: &'static Key,
        table: Option<(&'static Family, &str)>,
        value: &Spanned<DeValue<'_>>,
        variables: &Variables<'_>,
    ) -> Result<Stated, ConfigError> {
        let path = key_path(key, table);
        let raw = self.raw(&path, value, Some(variables))?;
        let written = self.raw(&path, value, None)?;
        let written = (written != raw).then_some(written);
        let table = table.map(|(family, name)| (family, name.to_owned()));
        Ok(Stated { key, table, raw, written, origin: self.origin_of(value) })
    }

    /// A TOML value, its strings expanded if there are variables to do it with. The parser bounds the nesting, so
    /// recursion is safe.
    fn raw(
        &self,
        key: &str,
        value: &Spanned<DeValue<'_>>,
        variables: Option<&Variables<'_>>,
    ) -> Result<Raw, ConfigError> {
        let expand = |text: &str| variables.map_or_else(|| Ok(text.to_owned()), |variables| variables.expand(text));
        Ok(match value.get_ref() {
            DeValue::String(text) => Raw::Text(expand(text).map_err(|error| {
                let origin = self.origin_of(value);
                match error {
                    ExpandError::Cycle(chain) => ConfigError::VariableCycle { key: key.to_owned(), chain, origin },
                    ExpandError::Problem(problem) => ConfigError::BadValue { key: key.to_owned(), problem, origin },
                }
            })?),
            DeValue::Integer(number) => {
                let digits = number.as_str().replace('_', "");
                match i64::from_str_radix(&digits, number.radix()) {
                    Ok(number) => Raw::Integer(number),
                    Err(_) => {
                        return Err(self.bad(key, value, "is a number too large to be meant"));
                    }
                }
            }
            DeValue::Float(number) => Raw::Float(number.as_str().replace('_', "").parse().unwrap_or(f64::NAN)),
            DeValue::Boolean(flag) => Raw::Bool(*flag),
            DeValue::Array(items) => {
                Raw::List(items.iter().map(|item| self.raw(key, item, variables)).collect::<Result<_, _>>()?)
            }
            DeValue::Datetime(_) => Raw::Other("date"),
            DeValue::Table(_) => Raw::Other("table"),
        })
    }

    fn bad(&self, key: &str, value: &Spanned<DeValue<'_>>, problem: &str) -> ConfigError {
        ConfigError::BadValue { key: suggest::shorten(key), problem: problem.to_owned(), origin: self.origin_of(value) }
    }
}
