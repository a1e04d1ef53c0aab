//! A chat as ids, such that no message can forge a turn.
//!
//! Messages come from strangers, and a template gives one text in which `<|im_start|>` looks the same
//! whoever wrote it. So the template also renders the chat with every message hidden behind one
//! character: the markers in that text are the template's own, and a chat may have no others. Where a
//! message spells a marker, characters that nobody used stand in for it while the template works, and
//! then the other way round: the template's markers get stand-ins, and the messages' spellings, put
//! back, are ordinary text.

use std::collections::{BTreeMap, BTreeSet};

use crate::chat::{ChatTemplate, Message};
use crate::error::TextError;
use crate::markers::Piece;
use crate::tokenizer::Tokenizer;

const ROLES: [&str; 4] = ["system", "user", "assistant", "tool"];
const ROLES_TEXT: &str = "system, user, assistant, tool";

/// The ids of a chat, open for the assistant's turn; `today` as in [`ChatTemplate::render`].
///
/// Only the template gives markers: special tokens, and other added tokens in brackets that it writes
/// around messages. A marker that a message spells, alone or together with its neighbours, stays text. A chat
/// that spells none has the ids of [`render`](ChatTemplate::render) and [`encode`](Tokenizer::encode).
///
/// # Errors
/// A role is unknown, the template refuses the messages or fails on them (hidden ones too), the text
/// cannot be encoded, messages use up all private-use characters, or the vocabulary itself makes a
/// marker of ordinary text (no supported family's does).
pub fn encode_chat(
    tokenizer: &Tokenizer,
    template: &ChatTemplate,
    messages: &[Message],
    today: &str,
) -> Result<Vec<u32>, TextError> {
    check_roles(messages)?;
    let mut stand_ins = StandIns::unused_in(tokenizer, template, messages, today);
    let hidden = Hidden::whole(messages, &mut stand_ins)?;
    let bare = template.render(&hidden.messages, today)?;
    let markers = Markers::of(tokenizer, &bare);
    let spelled = Hidden::spellings(messages, &markers, &mut stand_ins)?;
    let text = template.render(&spelled.messages, today)?;

    let encoded = markers.encoded(&text);
    if spelled.texts.is_empty() && encoded == markers.encoded(&bare) {
        return markers.check(encoded, tokenizer.encode(&text, false)?);
    }
    // A template that joins or changes messages may have made a marker of harmless parts. Then its
    // rendering of the hidden messages counts, even if it meant to choose a marker by their words.
    let written = markers.written(&bare);
    let (text, stood_in_for) = match markers.written(&text) == written {
        true => (text, spelled.texts),
        false => (bare, hidden.texts),
    };
    let own: BTreeMap<u32, char> = markers
        .ids
        .iter()
        .map(|&id| Ok((id, stand_ins.next()?)))
        .collect::<Result<_, TextError>>()?;
    let mut respelled = String::with_capacity(text.len());
    for piece in tokenizer.cut(&text) {
        match piece.added.and_then(|id| own.get(&id)) {
            Some(&stand_in) => respelled.push(stand_in),
            None => put_back(&piece.text, &stood_in_for, &mut respelled),
        }
    }
    markers.check(written, tokenizer.encode_with(&own, &respelled)?)
}

fn check_roles(messages: &[Message]) -> Result<(), TextError> {
    let unknown = |message: &Message| !ROLES.contains(&message.role.as_str());
    match messages.iter().position(unknown) {
        None => Ok(()),
        Some(index) => Err(TextError::UnknownRole {
            index,
            known: ROLES_TEXT,
        }),
    }
}

/// The added tokens that only the template may write.
struct Markers<'a> {
    tokenizer: &'a Tokenizer,
    ids: BTreeSet<u32>,
}

impl<'a> Markers<'a> {
    /// Special tokens, and those in brackets that a template wrote around hidden messages: some models
    /// do not call their turn markers special. Added words and runs of spaces are no markers.
    fn of(tokenizer: &'a Tokenizer, bare: &str) -> Self {
        let brackets = |text: &str| text.starts_with(['<', '[']) && text.ends_with(['>', ']']);
        let pieces = tokenizer.cut(bare).into_iter();
        let written = pieces.filter(|piece| brackets(&piece.text));
        let written = written.filter_map(|piece| piece.added);
        let ids = written.chain(tokenizer.special().iter().copied()).collect();
        Self { tokenizer, ids }
    }

    /// The markers that a text spells.
    fn written(&self, text: &str) -> Vec<u32> {
        self.among(self.tokenizer.cut(text))
    }

    /// The markers that plain encoding finds in a text.
    fn encoded(&self, text: &str) -> Vec<u32> {
        self.among(self.tokenizer.cut_as_encoded(text))
    }

    fn among(&self, pieces: Vec<Piece>) -> Vec<u32> {
        let ids = pieces.into_iter().filter_map(|piece| piece.added);
        ids.filter(|id| self.ids.contains(id)).collect()
    }

    /// `ids`, unless the vocabulary made a marker of ordinary text. The unknown token may stand for text.
    fn check(&self, expected: Vec<u32>, ids: Vec<u32>) -> Result<Vec<u32>, TextError> {
        let unknown = self.tokenizer.unknown();
        let is_marker = |id: &&u32| self.ids.contains(id) && Some(**id) != unknown;
        let expected = expected.iter().filter(is_marker).count();
        let found = ids.iter().filter(is_marker).count();
        match found == expected {
            true => Ok(ids),
            false => Err(TextError::ForgedMarkers { found, expected }),
        }
    }
}

/// Messages with stand-ins for some of their text.
struct Hidden {
    messages: Vec<Message>,
    /// What each stand-in stands for.
    texts: BTreeMap<char, String>,
}

impl Hidden {
    /// Hides every message but the space around it, which templates trim.
    fn whole(messages: &[Message], stand_ins: &mut StandIns) -> Result<Self, TextError> {
        let mut texts = BTreeMap::new();
        let mut hide = |message: &Message| {
            let Message { role, content } = message;
            let text = content.trim();
            if text.is_empty() {
                return Ok(message.clone());
            }
            let stand_in = stand_ins.next()?;
            texts.insert(stand_in, text.to_owned());
            let start = content.len() - content.trim_start().len();
            let (before, after) = (&content[..start], &content[start + text.len()..]);
            Ok(Message {
                role: role.clone(),
                content: format!("{before}{stand_in}{after}"),
            })
        };
        let messages = messages
            .iter()
            .map(&mut hide)
            .collect::<Result<_, TextError>>()?;
        Ok(Self { messages, texts })
    }

    /// Hides the spellings of markers only.
    fn spellings(
        messages: &[Message],
        markers: &Markers,
        stand_ins: &mut StandIns,
    ) -> Result<Self, TextError> {
        let mut used: BTreeMap<u32, char> = BTreeMap::new();
        let mut texts = BTreeMap::new();
        let mut hide = |message: &Message| {
            let mut content = String::with_capacity(message.content.len());
            for piece in markers.tokenizer.cut(&message.content) {
                let Some(id) = piece.added.filter(|id| markers.ids.contains(id)) else {
                    content.push_str(&piece.text);
                    continue;
                };
                let stand_in = match used.get(&id) {
                    Some(&stand_in) => stand_in,
                    None => stand_ins.next()?,
                };
                used.insert(id, stand_in);
                texts.insert(stand_in, piece.text);
                content.push(stand_in);
            }
            let role = message.role.clone();
            Ok(Message { role, content })
        };
        let messages = messages
            .iter()
            .map(&mut hide)
            .collect::<Result<_, TextError>>()?;
        Ok(Self { messages, texts })
    }
}

/// Appends `text` to `whole` with what its stand-ins stood for.
fn put_back(text: &str, stood_in_for: &BTreeMap<char, String>, whole: &mut String) {
    for c in text.chars() {
        match stood_in_for.get(&c) {
            Some(hidden) => whole.push_str(hidden),
            None => whole.push(c),
        }
    }
}

/// Characters for private use that occur nowhere in a chat.
struct StandIns {
    used: BTreeSet<char>,
    rest: Box<dyn Iterator<Item = char>>,
}

impl StandIns {
    fn unused_in(
        tokenizer: &Tokenizer,
        template: &ChatTemplate,
        messages: &[Message],
        today: &str,
    ) -> Self {
        let template = template.own_text();
        let contents = messages.iter().map(|message| message.content.as_str());
        let texts = contents
            .chain(tokenizer.added_texts())
            .chain([template.as_str(), today]);
        let used = texts.flat_map(str::chars).filter(|&c| is_private(c));
        Self {
            used: used.collect(),
            rest: Box::new(PRIVATE.into_iter().flatten()),
        }
    }

    fn next(&mut self) -> Result<char, TextError> {
        let unused = self.rest.find(|c| !self.used.contains(c));
        unused.ok_or(TextError::NoStandIn)
    }
}

/// Unicode's three private use areas: 137,468 characters.
const PRIVATE: [std::ops::RangeInclusive<char>; 3] = [
    '\u{E000}'..='\u{F8FF}',
    '\u{F0000}'..='\u{FFFFD}',
    '\u{100000}'..='\u{10FFFD}',
];

fn is_private(c: char) -> bool {
    PRIVATE.iter().any(|area| area.contains(&c))
}
