//! Added tokens in a text: where they are spelled, and encoding under other spellings.
//!
//! The tokenizer library finds added tokens by their spelling alone, so a text cannot say which
//! `<|im_start|>` is meant. Under spellings that nobody else can write, it can.

use std::collections::BTreeMap;

use tokenizers::models::wordlevel::WordLevel;
use tokenizers::{
    AddedToken, AddedVocabulary, Error, Model, NormalizerWrapper, OffsetReferential, OffsetType,
    PreTokenizer, Tokenizer,
};

/// A part of a text: the spelling of an added token, or what stands between two.
#[derive(Debug)]
pub(crate) struct Piece {
    pub(crate) text: String,
    /// The added token's id.
    pub(crate) added: Option<u32>,
}

/// The pieces of a text, in order; the text is normalized if there is a normalizer.
pub(crate) fn cut(
    added: &AddedVocabulary,
    normalizer: Option<&NormalizerWrapper>,
    text: &str,
) -> Vec<Piece> {
    let cut = added.extract_and_normalize(normalizer, text);
    let pieces = cut.get_splits(OffsetReferential::Original, OffsetType::None);
    let piece = |(text, _, tokens): (&str, _, &Option<Vec<tokenizers::Token>>)| Piece {
        text: text.to_owned(),
        added: tokens.as_ref().map(|tokens| tokens[0].id),
    };
    pieces.into_iter().map(piece).collect()
}

/// The same tokens, to be found wherever they are spelled: no matter what stands beside them, and
/// with nothing stripped.
pub(crate) fn anywhere(
    tokens: impl IntoIterator<Item = (u32, AddedToken)>,
) -> Result<AddedVocabulary, Error> {
    let plain = |(id, token): (u32, AddedToken)| {
        let plain = AddedToken::from(token.content, token.special).normalized(false);
        (id, plain)
    };
    vocabulary(tokens.into_iter().map(plain).collect(), None)
}

/// What [`Tokenizer::encode_fast`] does, with other spellings of the added tokens that `stand_ins` has.
pub(crate) fn encode_with(
    tokenizer: &Tokenizer,
    stand_ins: &BTreeMap<u32, char>,
    text: &str,
) -> Result<Vec<u32>, Error> {
    let respelled = |(id, token): (u32, AddedToken)| match stand_ins.get(&id) {
        None => (id, token),
        Some(&stand_in) => {
            let content = stand_in.to_string();
            let token = AddedToken { content, ..token };
            (id, token.normalized(false).single_word(false))
        }
    };
    let tokens = tokenizer.get_added_tokens_decoder().into_iter();
    let normalizer = tokenizer.get_normalizer();
    let added = vocabulary(tokens.map(respelled).collect(), normalizer)?;
    let mut text = added.extract_and_normalize(normalizer, text);
    if let Some(pre_tokenizer) = tokenizer.get_pre_tokenizer() {
        pre_tokenizer.pre_tokenize(&mut text)?;
    }
    let model = tokenizer.get_model();
    model.tokenize_in_pretokenized(&mut text, None)?;
    let encoding = text.into_encoding(None, 0, OffsetType::None)?;
    let encoding = tokenizer.post_process(encoding, None, false)?;
    Ok(encoding.get_ids().to_vec())
}

/// Added tokens under the ids given. The library takes ids from a model, hence one that has these.
fn vocabulary(
    tokens: Vec<(u32, AddedToken)>,
    normalizer: Option<&NormalizerWrapper>,
) -> Result<AddedVocabulary, Error> {
    let ids = tokens
        .iter()
        .map(|(id, token)| (token.content.clone(), *id));
    let ids = WordLevel::builder().vocab(ids.collect()).build()?;
    let mut added = AddedVocabulary::new();
    added.add_tokens(tokens.into_iter().map(|(_, token)| token), &ids, normalizer)?;
    Ok(added)
}
