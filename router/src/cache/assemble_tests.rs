use super::*;
use crate::cache::replay;
use proptest::prelude::*;

const USAGE: &str = r#"{"prompt_tokens": 3, "completion_tokens": 4, "total_tokens": 7}"#;

fn usage() -> Value {
    serde_json::from_str(USAGE).expect("JSON")
}

fn assemble(endpoint: Endpoint, choices: usize, chunks: &[Value]) -> Result<Value, Incomplete> {
    let mut assembler = Assembler::new(endpoint, choices, 1 << 20);
    chunks.iter().for_each(|chunk| assembler.push(chunk));
    assembler.finish().map(|answer| answer.body().clone())
}

fn chat(deltas: &[Value]) -> Vec<Value> {
    let chunk = |choices: Value| json!({"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "m", "choices": choices});
    let mut chunks: Vec<Value> =
        deltas.iter().map(|delta| chunk(json!([{"index": 0, "delta": delta, "finish_reason": null}]))).collect();
    chunks.push(chunk(json!([{"index": 0, "delta": {}, "finish_reason": "stop"}])));
    let mut last = chunk(json!([]));
    last["usage"] = usage();
    chunks.push(last);
    chunks
}

#[test]
fn text_and_calls_are_put_together() {
    let chunks = chat(&[
        json!({"role": "assistant", "content": "", "refusal": null}),
        json!({"reasoning_content": "hm"}),
        json!({"reasoning_content": "m"}),
        json!({"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": ""}}]}),
        json!({"tool_calls": [{"index": 1, "id": "b", "type": "function", "function": {"name": "g", "arguments": "{"}}]}),
        json!({"tool_calls": [{"index": 0, "id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":"}}]}),
        json!({"tool_calls": [{"index": 1, "function": {"arguments": "}"}}, {"index": 0, "function": {"arguments": "1}"}}]}),
    ]);
    assert_eq!(
        assemble(Endpoint::Chat, 1, &chunks),
        Ok(json!({"id": "c1", "created": 1, "model": "m", "usage": usage(), "object": "chat.completion", "choices": [
            {"index": 0, "message": {"role": "assistant", "content": null, "refusal": null, "reasoning_content": "hmm",
                "tool_calls": [
                    {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{\"x\":1}"}},
                    {"id": "b", "type": "function", "function": {"name": "g", "arguments": "{}"}}]},
            "logprobs": null, "finish_reason": "stop"}]}))
    );
}

#[test]
fn logprobs_of_both_endpoints_are_put_together() {
    let scored = |token: &str| json!({"token": token, "logprob": -0.5, "bytes": [97], "top_logprobs": []});
    let chunk = |text: &str| {
        json!({"choices": [{"index": 0, "delta": {"content": text},
            "logprobs": {"content": [scored(text)], "refusal": null}, "finish_reason": null}]})
    };
    let end =
        json!({"choices": [{"index": 0, "delta": {}, "logprobs": null, "finish_reason": "stop"}], "usage": usage()});
    let answer = assemble(Endpoint::Chat, 1, &[chunk("a"), chunk("b"), end]).expect("whole");
    assert_eq!(answer["choices"][0]["message"]["content"], "ab");
    assert_eq!(answer["choices"][0]["logprobs"], json!({"content": [scored("a"), scored("b")], "refusal": null}));

    let chunk = |text: &str, offset: usize, finish: Value| {
        json!({"usage": usage(), "choices": [{"index": 0, "text": text, "finish_reason": finish, "logprobs":
            {"tokens": [text], "token_logprobs": [-1.0], "top_logprobs": null, "text_offset": [offset]}}]})
    };
    let answer = assemble(Endpoint::Completions, 1, &[chunk("a", 0, json!(null)), chunk("b", 1, json!("length"))]);
    assert_eq!(
        answer.expect("whole")["choices"][0],
        json!({"index": 0, "text": "ab", "logprobs": {"tokens": ["a", "b"], "token_logprobs": [-1.0, -1.0],
            "top_logprobs": null, "text_offset": [0, 1]}, "finish_reason": "length"})
    );
}

#[test]
fn what_is_cut_or_wrong_is_no_answer() {
    let good = chat(&[json!({"role": "assistant", "content": "a"}), json!({"content": "b"})]);
    assert!(assemble(Endpoint::Chat, 1, &good).is_ok());
    for cut in 0..good.len() {
        assert!(assemble(Endpoint::Chat, 1, &good[..cut]).is_err(), "cut after {cut} chunks");
    }
    assert_eq!(assemble(Endpoint::Chat, 2, &good), Err(Incomplete::Unfinished(1)));
    let with = |chunk: Value| assemble(Endpoint::Chat, 1, &[&[chunk], &good[..]].concat());
    assert_eq!(with(json!({"error": {"message": "no"}})), Err(Incomplete::Error));
    assert!(matches!(with(json!("text")), Err(Incomplete::Garbage(_))));
    assert!(matches!(with(json!({"choices": [7]})), Err(Incomplete::Garbage(_))));
    for index in [json!(1), json!(-1), json!(1e300), json!("0")] {
        assert!(matches!(with(json!({"choices": [{"index": index}]})), Err(Incomplete::Garbage(_))), "{index}");
    }
    let many: Vec<Value> = (0..600).map(|index| json!({"index": index})).collect();
    let many = json!({"choices": [{"index": 0, "delta": {"tool_calls": many}}]});
    assert!(matches!(with(many), Err(Incomplete::Garbage(_))));
    let mut assembler = Assembler::new(Endpoint::Chat, 1, 10);
    assembler.push(&json!({"choices": [{"index": 0, "delta": {"content": "more than ten"}}]}));
    good.iter().for_each(|chunk| assembler.push(chunk));
    assert_eq!(assembler.finish().err(), Some(Incomplete::TooLarge { most: 10 }));
}

#[test]
fn a_replay_reads_as_a_stream_does() {
    let text = "é".repeat(300);
    let body = json!({"id": "c", "object": "chat.completion", "created": 1, "model": "m", "memory": {"recalled": 2},
        "choices": [{"index": 0, "message": {"role": "assistant", "content": text, "refusal": null}, "logprobs": null,
        "finish_reason": "stop"}], "usage": usage()});
    let answer = Answer::whole(Endpoint::Chat, 1, body).expect("whole");
    let chunks = replay(&answer, true);
    assert_eq!(chunks[0]["choices"][0]["delta"], json!({"role": "assistant", "content": "", "refusal": null}));
    assert_eq!(chunks[0]["memory"], json!({"recalled": 2}));
    assert!(chunks[1..].iter().all(|chunk| chunk.get("memory").is_none()));
    assert!(chunks.iter().all(|chunk| chunk["object"] == "chat.completion.chunk" && chunk["id"] == "c"));
    let (last, others) = chunks.split_last().expect("chunks");
    assert!(others.iter().all(|chunk| chunk["usage"].is_null() && chunk.get("usage").is_some()));
    assert_eq!((&last["choices"], &last["usage"]), (&json!([]), &usage()));
    assert_eq!(others.last().map(|chunk| &chunk["choices"][0]["finish_reason"]), Some(&json!("stop")));
    assert_eq!(others.len(), 2 + 3, "600 bytes in pieces of 256, an opening and an end");
    assert!(replay(&answer, false).iter().all(|chunk| chunk.get("usage").is_none()));
    let vectors = json!({"data": [{"embedding": [1.0]}], "usage": usage()});
    assert!(replay(&Answer::whole(Endpoint::Embeddings, 1, vectors).expect("whole"), true).is_empty());
}

fn calls() -> impl Strategy<Value = Vec<Value>> {
    let call = ("[a-z]{1,8}", "[a-z_]{1,12}", any::<String>()).prop_map(|(id, name, arguments)| {
        json!({"id": id, "type": "function", "function": {"name": name, "arguments": arguments}})
    });
    prop::collection::vec(call, 1..4)
}

fn message() -> impl Strategy<Value = Value> {
    let long = prop::collection::vec(any::<String>(), 0..30).prop_map(|parts| parts.concat());
    let content = prop::option::of(long.clone());
    (content, prop::option::of(long), prop::option::of(calls()), any::<bool>()).prop_map(
        |(content, reasoning, calls, noted)| {
            let mut message = json!({"role": "assistant", "content": content, "refusal": null});
            if let Some(reasoning) = reasoning.filter(|reasoning| !reasoning.is_empty()) {
                message["reasoning_content"] = reasoning.into();
            }
            if noted {
                message["annotations"] = json!([{"type": "url_citation", "url": "u"}]);
            }
            if let Some(calls) = calls {
                if message["content"] == "" {
                    message["content"] = Value::Null;
                }
                message["tool_calls"] = calls.into();
            }
            message
        },
    )
}

fn logprobs() -> impl Strategy<Value = Value> {
    prop::option::of(prop::collection::vec(-20.0..0.0f64, 1..5)).prop_map(|scores| match scores {
        None => Value::Null,
        Some(scores) => {
            let content: Vec<Value> = scores
                .iter()
                .map(|score| json!({"token": "t", "logprob": score, "top_logprobs": [{"token": "u", "logprob": -1.0}]}))
                .collect();
            json!({"content": content, "refusal": null})
        }
    })
}

proptest! {
    /// What is replayed and put together again is what it was.
    #[test]
    fn a_chat_goes_round(choices in prop::collection::vec((message(), logprobs(), "stop|length|tool_calls"), 1..4), all: bool) {
        let count = choices.len();
        let choices: Vec<Value> = choices
            .into_iter()
            .enumerate()
            .map(|(index, (message, logprobs, finish))| json!({"index": index, "message": message, "logprobs": logprobs,
                "finish_reason": finish, "stop_reason": 7}))
            .collect();
        let body = json!({"id": "c", "created": 1, "model": "m", "system_fingerprint": "s", "engram": {"backend": "local"},
            "usage": usage(), "object": "chat.completion", "choices": choices});
        let answer = Answer::whole(Endpoint::Chat, count, body.clone()).expect("whole");
        let mut chunks = replay(&answer, all);
        if !all {
            chunks.push(json!({"usage": usage()}));
        }
        prop_assert_eq!(assemble(Endpoint::Chat, count, &chunks), Ok(body));
    }

    #[test]
    fn a_completion_goes_round(texts in prop::collection::vec((any::<String>(), any::<bool>()), 1..4)) {
        let count = texts.len();
        let choices: Vec<Value> = texts
            .into_iter()
            .enumerate()
            .map(|(index, (text, scored))| {
                let scores = json!({"tokens": ["a"], "token_logprobs": [-1.0], "top_logprobs": [{"a": -1.0}], "text_offset": [0]});
                json!({"index": index, "text": text, "logprobs": if scored { scores } else { Value::Null }, "finish_reason": "stop"})
            })
            .collect();
        let body = json!({"id": "c", "created": 1, "model": "m", "usage": usage(), "object": "text_completion", "choices": choices});
        let answer = Answer::whole(Endpoint::Completions, count, body.clone()).expect("whole");
        prop_assert_eq!(assemble(Endpoint::Completions, count, &replay(&answer, true)), Ok(body));
    }

    /// Whatever a server sends: no panic, and an answer only if all of it is there.
    #[test]
    fn garbage_is_refused(chunks in prop::collection::vec(garbage(), 0..6)) {
        if let Ok(answer) = assemble(Endpoint::Chat, 1, &chunks) {
            prop_assert!(answer["choices"][0]["finish_reason"].is_string());
        }
    }
}

fn garbage() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z]{0,4}".prop_map(Value::from)
    ];
    leaf.prop_recursive(6, 32, 4, |inner| {
        let name = "choices|delta|index|message|tool_calls|logprobs|content|finish_reason|usage|text|name|id";
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map(name, inner, 0..5).prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}
