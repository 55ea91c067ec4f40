//! What a definition looks like in each language: one table of node kinds a language, read by one walker.

use tree_sitter::Node;

/// How a definition's name is found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Naming {
    /// Field `name`.
    Name,
    /// Field `name`, and only with a field `body`: `struct point p;` defines nothing.
    Bodied,
    /// Field `type` without its generics: an `impl` adds to a type and does not define it.
    Impl,
    /// The innermost `declarator` of C.
    Declarator,
    /// Field `name` behind the type of the field `receiver`.
    Receiver,
    /// The first field names it, if the second is a function or a class: `const f = () => 1`.
    Valued(&'static str, &'static str),
}

/// A row of a table.
#[derive(Debug, Clone, Copy)]
pub(super) struct Kind {
    /// Kind of the node.
    pub node: &'static str,
    /// How it is named.
    pub naming: Naming,
}

const fn kind(node: &'static str, naming: Naming) -> Kind {
    Kind { node, naming }
}

/// One language's table.
pub(super) struct Grammar {
    /// The parser's.
    pub language: fn() -> tree_sitter::Language,
    /// Definitions that are not walked into unless they are too large: functions, plain types.
    pub leaves: &'static [Kind],
    /// Definitions with definitions inside.
    pub containers: &'static [Kind],
    /// Nodes around a definition that belong to it: `export`, decorators.
    pub wrappers: &'static [&'static str],
    /// Nodes before a definition that belong to it.
    pub comments: &'static [&'static str],
    /// The same, not comments.
    pub attributes: &'static [&'static str],
    /// Between the parts of a qualified name.
    pub separator: &'static str,
    /// A string that opens the body is the doc.
    pub docstrings: bool,
}

use Naming::{Bodied, Declarator, Impl, Name, Receiver, Valued};

const RUST: Grammar = Grammar {
    language: || tree_sitter_rust::LANGUAGE.into(),
    leaves: &[
        kind("function_item", Name),
        kind("function_signature_item", Name),
        kind("struct_item", Name),
        kind("enum_item", Name),
        kind("union_item", Name),
        kind("type_item", Name),
        kind("macro_definition", Name),
    ],
    containers: &[kind("mod_item", Bodied), kind("trait_item", Name), kind("impl_item", Impl)],
    wrappers: &[],
    comments: &["line_comment", "block_comment"],
    attributes: &["attribute_item"],
    separator: "::",
    docstrings: false,
};

const PYTHON: Grammar = Grammar {
    language: || tree_sitter_python::LANGUAGE.into(),
    leaves: &[kind("function_definition", Name)],
    containers: &[kind("class_definition", Name)],
    wrappers: &["decorated_definition"],
    comments: &["comment"],
    attributes: &[],
    separator: ".",
    docstrings: true,
};

const JAVASCRIPT: Grammar = Grammar {
    language: || tree_sitter_javascript::LANGUAGE.into(),
    leaves: JS_LEAVES,
    containers: JS_CONTAINERS,
    wrappers: JS_WRAPPERS,
    comments: &["comment"],
    attributes: &["decorator"],
    separator: ".",
    docstrings: false,
};

const TYPESCRIPT: Grammar = Grammar { language: || tree_sitter_typescript::LANGUAGE_TYPESCRIPT.into(), ..JAVASCRIPT };

const TSX: Grammar = Grammar { language: || tree_sitter_typescript::LANGUAGE_TSX.into(), ..JAVASCRIPT };

/// JavaScript's and TypeScript's together: neither has a node of the other's name with another meaning.
const JS_LEAVES: &[Kind] = &[
    kind("function_declaration", Name),
    kind("generator_function_declaration", Name),
    kind("function_signature", Name),
    kind("method_definition", Name),
    kind("abstract_method_signature", Name),
    kind("variable_declarator", Valued("name", "value")),
    kind("assignment_expression", Valued("left", "right")),
    kind("field_definition", Valued("property", "value")),
    kind("public_field_definition", Valued("name", "value")),
    kind("pair", Valued("key", "value")),
    kind("interface_declaration", Name),
    kind("enum_declaration", Name),
    kind("type_alias_declaration", Name),
];

const JS_CONTAINERS: &[Kind] = &[
    kind("class_declaration", Name),
    kind("abstract_class_declaration", Name),
    kind("internal_module", Name),
    kind("module", Name),
];

const JS_WRAPPERS: &[&str] =
    &["export_statement", "lexical_declaration", "variable_declaration", "expression_statement", "ambient_declaration"];

const GO: Grammar = Grammar {
    language: || tree_sitter_go::LANGUAGE.into(),
    leaves: &[
        kind("function_declaration", Name),
        kind("method_declaration", Receiver),
        kind("type_spec", Name),
        kind("type_alias", Name),
    ],
    containers: &[],
    wrappers: &["type_declaration"],
    comments: &["comment"],
    attributes: &[],
    separator: ".",
    docstrings: false,
};

const JAVA: Grammar = Grammar {
    language: || tree_sitter_java::LANGUAGE.into(),
    leaves: &[
        kind("method_declaration", Name),
        kind("constructor_declaration", Name),
        kind("compact_constructor_declaration", Name),
        kind("annotation_type_declaration", Name),
    ],
    containers: &[
        kind("class_declaration", Name),
        kind("interface_declaration", Name),
        kind("enum_declaration", Name),
        kind("record_declaration", Name),
    ],
    wrappers: &[],
    comments: &["line_comment", "block_comment"],
    attributes: &[],
    separator: ".",
    docstrings: false,
};

const C: Grammar = Grammar {
    language: || tree_sitter_c::LANGUAGE.into(),
    leaves: &[
        kind("function_definition", Declarator),
        kind("type_definition", Declarator),
        kind("struct_specifier", Bodied),
        kind("union_specifier", Bodied),
        kind("enum_specifier", Bodied),
        kind("preproc_function_def", Name),
    ],
    containers: &[],
    wrappers: &[],
    comments: &["comment"],
    attributes: &[],
    separator: "::",
    docstrings: false,
};

const CPP: Grammar = Grammar {
    language: || tree_sitter_cpp::LANGUAGE.into(),
    leaves: &[
        kind("function_definition", Declarator),
        kind("type_definition", Declarator),
        kind("alias_declaration", Name),
        kind("concept_definition", Name),
        kind("enum_specifier", Bodied),
        kind("preproc_function_def", Name),
    ],
    containers: &[
        kind("class_specifier", Bodied),
        kind("struct_specifier", Bodied),
        kind("union_specifier", Bodied),
        kind("namespace_definition", Bodied),
    ],
    wrappers: &["template_declaration"],
    ..C
};

/// The table of a language, if there is one.
pub(super) fn of(language: &str) -> Option<&'static Grammar> {
    Some(match language {
        "rust" => &RUST,
        "python" => &PYTHON,
        "javascript" => &JAVASCRIPT,
        "typescript" => &TYPESCRIPT,
        "tsx" => &TSX,
        "go" => &GO,
        "java" => &JAVA,
        "c" => &C,
        "cpp" => &CPP,
        _ => return None,
    })
}

/// Right-hand sides that make an assignment a definition.
const VALUES: &[&str] = &["arrow_function", "function_expression", "generator_function", "class"];

/// Longest name taken, bytes; longer ones are not names that anybody looks for.
const MAX_NAME: usize = 200;

impl Naming {
    /// The name that `node` defines, or `None` if it is no definition after all.
    pub(super) fn name(self, node: Node<'_>, text: &str) -> Option<String> {
        let field = |field: &str| node.child_by_field_name(field);
        let of = |node: Node<'_>| node.utf8_text(text.as_bytes()).ok();
        let name = match self {
            Name => of(field("name")?)?.trim_matches(['"', '\'']).to_owned(),
            Bodied => field("body").and(field("name")).and_then(of)?.to_owned(),
            Impl => of(field("type")?)?.split('<').next()?.trim().to_owned(),
            Declarator => of(innermost(field("declarator")?))?.to_owned(),
            Receiver => {
                let receiver = of(field("receiver")?)?;
                let kind = receiver.trim_matches(['(', ')']).split_whitespace().last()?;
                let kind = kind.trim_start_matches('*').split('[').next()?;
                format!("{kind}.{}", of(field("name")?)?)
            }
            Valued(name, value) => {
                field(value).filter(|value| VALUES.contains(&value.kind()))?;
                of(field(name)?)?.trim_matches(['"', '\'']).to_owned()
            }
        };
        (!name.is_empty() && name.len() <= MAX_NAME && !name.contains('\n')).then_some(name)
    }
}

/// `f` of `*(*f)(int)`; declarators nest as deep as types do, of which 16 levels are followed.
fn innermost(mut node: Node<'_>) -> Node<'_> {
    for _ in 0..16 {
        let inner = node.child_by_field_name("declarator").or_else(|| {
            let wraps = ["parenthesized_declarator", "reference_declarator"].contains(&node.kind());
            if wraps { node.named_child(0) } else { None }
        });
        match inner {
            Some(inner) => node = inner,
            None => break,
        }
    }
    node
}
