//! Of what several conversations have in common, next to nothing is computed twice.

mod support;

use aluco_proto::{ChatPrompt, Prompt, Token};
use serde_json::{Value, json};
use support::{Outcome, Worker, gate::Gate, greedy, tiny, turns};
use tiny::Kind;

/// Most that may be computed, relative to the tokens that were never seen before.
const CUT_ANYWHERE_MOST: f64 = 1.05;
const CHECKPOINTS_MOST: f64 = 1.2;

const AGENTS: usize = 6;
const TURNS: usize = 8;
const SYSTEM_TOKENS: usize = 1000;
const TURN_TOKENS: usize = 80;
const REPLY_TOKENS: u32 = 16;

/// How prompts are sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    /// Token ids: nothing tells where messages begin.
    Tokens,
    /// Conversations.
    Chat,
}

/// A conversation, as messages and as tokens.
#[derive(Debug, Clone)]
struct Conversation {
    form: Form,
    messages: Vec<Value>,
    tokens: Vec<Token>,
}

impl Conversation {
    fn new(form: Form, system: &str) -> Self {
        let mut conversation = Self {
            form,
            messages: Vec::new(),
            tokens: Vec::new(),
        };
        conversation.say("system", system);
        conversation
    }

    fn control(&mut self, token: Token) {
        if self.form == Form::Chat {
            self.tokens.push(token);
        }
    }

    fn template(&mut self, text: &str) {
        if self.form == Form::Chat {
            self.tokens.extend(text.bytes().map(Token::from));
        }
    }

    fn say(&mut self, role: &str, content: &str) {
        self.control(257);
        self.template(&format!("{role}\n"));
        self.tokens.extend(content.bytes().map(Token::from));
        self.control(258);
        self.template("\n");
        self.messages
            .push(json!({"role": role, "content": content}));
    }

    /// What is sent, and the tokens that it should be.
    fn prompt(&self) -> (Prompt, Vec<Token>) {
        let mut whole = self.clone();
        whole.control(257);
        whole.template("assistant\n");
        let prompt = match self.form {
            Form::Tokens => Prompt::Tokens(whole.tokens.clone()),
            Form::Chat => Prompt::Chat(ChatPrompt {
                messages: self.messages.clone().into(),
                template_arguments: serde_json::Map::new(),
                add_generation_prompt: true,
            }),
        };
        (prompt, whole.tokens)
    }
}

/// What was computed and what had to be.
#[derive(Debug, Default)]
struct Count {
    known: turns::Known,
    computed: u32,
    ideal: u32,
}

impl Count {
    fn ask(&mut self, prompt: &[Token]) {
        self.ideal += self.known.unknown(prompt);
    }

    fn answer(&mut self, prompt: &[Token], outcome: &Outcome) {
        assert_eq!(outcome.failure, None);
        assert_eq!(outcome.usage.prompt_tokens as usize, prompt.len());
        assert_eq!(
            outcome.usage.cached_tokens,
            outcome.cache.cached_tokens(),
            "{outcome:?}"
        );
        self.computed += outcome.computed_tokens();
        let mut all = prompt.to_vec();
        let (_, computed) = outcome.tokens[0].split_last().unwrap();
        all.extend_from_slice(computed);
        self.known.add(&all);
    }

    fn check(&self, what: &str, most: f64) {
        let ratio = f64::from(self.computed) / f64::from(self.ideal);
        eprintln!(
            "{what}: {} computed, {} new, {ratio:.3}",
            self.computed, self.ideal
        );
        assert!(ratio <= most, "{what}: {ratio:.3}");
    }
}

fn most(kind: Kind) -> f64 {
    if tiny::is_cut_anywhere(kind) {
        CUT_ANYWHERE_MOST
    } else {
        CHECKPOINTS_MOST
    }
}

fn spec(prompt: Prompt) -> aluco_proto::GenerationSpec {
    let mut spec = greedy(prompt, REPLY_TOKENS);
    spec.sampling.ignore_end = true;
    spec
}

/// Agents that share a system prompt take turns; those of a round ask at once or one after the other.
fn agents_take_turns(kind: Kind, form: Form, at_once: usize) {
    let mut worker = Worker::start();
    worker.load_file(&tiny::path(kind), tiny::options(8192));
    let system = turns::words(1, SYSTEM_TOKENS);
    let mut agents = vec![Conversation::new(form, &system); AGENTS];
    let mut count = Count::default();
    for turn in 0..TURNS {
        for first in (0..AGENTS).step_by(at_once) {
            let mut asked = Vec::new();
            for (index, agent) in agents[first..first + at_once].iter_mut().enumerate() {
                let seed = 100 + (turn * AGENTS + first + index) as u64;
                agent.say("user", &turns::words(seed, TURN_TOKENS));
                let (prompt, tokens) = agent.prompt();
                count.ask(&tokens);
                // Known to whoever asks at the same time, who can wait for it.
                count.known.add(&tokens[..tokens.len() - 1]);
                asked.push((worker.generate(spec(prompt)), tokens));
            }
            let requests: Vec<_> = asked.iter().map(|(request, _)| *request).collect();
            let outcomes = worker.finish(&requests);
            let answers = agents[first..].iter_mut().zip(&asked).zip(&outcomes);
            for ((agent, (_, prompt)), outcome) in answers {
                count.answer(prompt, outcome);
                let said = match form {
                    Form::Tokens => outcome.tokens[0].iter().map(|token| *token as u8).collect(),
                    Form::Chat => outcome.text[0].clone().into_bytes(),
                };
                agent.say("assistant", &String::from_utf8_lossy(&said));
            }
        }
    }
    let what = format!("{kind} {form:?} {at_once} at once");
    count.check(&what, most(kind));
    assert_eq!(worker.complaints, [] as [String; 0], "{what}");
}

macro_rules! for_each_kind {
    ($($name:ident: $kind:ident,)*) => {$(
        mod $name {
            use super::*;

            #[test]
            fn agents_that_send_token_ids_compute_little_twice() {
                agents_take_turns(Kind::$kind, Form::Tokens, 1);
            }

            #[test]
            fn agents_that_send_conversations_compute_little_twice() {
                agents_take_turns(Kind::$kind, Form::Chat, 1);
            }

            #[test]
            fn agents_that_ask_at_once_compute_little_twice() {
                agents_take_turns(Kind::$kind, Form::Chat, 3);
            }

            #[test]
            fn a_beginning_that_is_asked_for_at_once_is_computed_once() {
                one_beginning(Kind::$kind, false);
            }

            #[test]
            fn choices_share_their_prompt() {
                choices_share(Kind::$kind);
            }

            #[test]
            fn a_beginning_outlives_the_request_that_computed_it() {
                one_beginning(Kind::$kind, true);
            }
        }
    )*};
}

for_each_kind! {
    full_attention: FullAttention,
    full_attention_with_experts: Moe,
    sliding_window: SlidingWindow,
    sliding_window_with_sinks: SlidingWindowMoe,
    hybrid_with_mamba: Hybrid,
    hybrid_with_convolutions: HybridConvolution,
    hybrid_with_delta_nets: HybridDeltaNet,
    recurrent: Recurrent,
}

/// Six requests at once with one beginning. The first one may be cancelled in the middle of its prompt.
fn one_beginning(kind: Kind, is_first_cancelled: bool) {
    const BEGINNING_TOKENS: usize = 2000;
    // All have come before a third of the beginning is computed.
    let gate = Gate::at(6);
    let mut worker = Worker::with_gate(&gate);
    worker.load_file(
        &tiny::path(kind),
        aluco_proto::LoadOptions {
            sequences_max: 8,
            micro_batch_tokens: 128,
            ..tiny::options(8192)
        },
    );
    let beginning = turns::text(1, BEGINNING_TOKENS);
    let mut count = Count::default();
    let asked: Vec<_> = (0..AGENTS as u64)
        .map(|agent| {
            let tokens = [&*beginning, &*turns::text(10 + agent, 40)].concat();
            count.ask(&tokens);
            count.known.add(&tokens[..tokens.len() - 1]);
            (
                worker.generate(spec(Prompt::Tokens(tokens.clone()))),
                tokens,
            )
        })
        .collect();
    let mut requests: Vec<_> = asked.iter().map(|(request, _)| *request).collect();
    let held = gate.reached();
    worker.until_prepared();
    if is_first_cancelled {
        worker.cancel(requests.remove(0));
        worker.until_heard();
    }
    drop(held);
    let outcomes = worker.finish(&requests);
    let of_finished = &asked[asked.len() - outcomes.len()..];
    for ((_, prompt), outcome) in of_finished.iter().zip(&outcomes) {
        count.answer(prompt, outcome);
    }
    if !is_first_cancelled {
        assert_eq!(worker.activity().prefill_tokens, u64::from(count.computed));
    }
    // What the cancelled request computed counts too.
    count.computed = worker.activity().prefill_tokens as u32;
    count.check(&format!("{kind} cancelled {is_first_cancelled}"), 1.1);
    assert_eq!(worker.complaints, [] as [String; 0]);
}

/// Four choices of one long prompt, far beyond any window, go on for longer than that too.
fn choices_share(kind: Kind) {
    const PROMPT_TOKENS: usize = 1500;
    let mut worker = Worker::start();
    // Windows of the choices lie in other cells, and sums depend on their order: rounding to f16 would show.
    worker.load_file(
        &tiny::path(kind),
        aluco_proto::LoadOptions {
            kv_type_k: aluco_proto::KvType::F32,
            kv_type_v: aluco_proto::KvType::F32,
            flash_attention: aluco_proto::FlashAttention::Off,
            ..tiny::options(4096)
        },
    );
    let mut spec = spec(Prompt::Tokens(turns::text(1, PROMPT_TOKENS)));
    spec.choices = 4;
    spec.tokens_max = Some(150);
    let outcome = worker.run(spec);
    assert_eq!(outcome.failure, None);
    assert_eq!(outcome.usage.generated_tokens, 4 * 150);
    for text in &outcome.text {
        assert_eq!(*text, outcome.text[0], "{kind}");
    }
    // None had to give up its cells and begin anew.
    let prefill_tokens = worker.activity().prefill_tokens;
    assert_eq!(prefill_tokens, PROMPT_TOKENS as u64, "{kind}");
    assert_eq!(worker.complaints, [] as [String; 0]);
}
