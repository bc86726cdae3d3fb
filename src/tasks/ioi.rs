//! Indirect object identification (Wang et al. 2022, "Interpretability in the Wild", sections 2
//! and 3 and appendix E): the sentence names two people, then one of them again, and should end
//! with the other.

use rand::Rng;
use rand::seq::index::sample;
use rand_chacha::ChaCha8Rng;

use super::{Setting, Split, Word, choose, enough, rng};
use crate::error::{Error, Result};
use crate::prompt::Prompt;
use crate::tokenizer::Tokenizer;

pub(super) const NAMES: &str = "\
    Mary John Tom James Dan Sid Martin Amy Alice David Sarah Robert Emily Daniel Rachel \
    Thomas Laura Kevin Jessica Michael Anna Paul Lisa Mark Kate Peter Susan Adam Helen Brian \
    Julia Jason Karen Eric Diana Simon Nancy Steven Emma Andrew Linda Ryan Alex Jack Sean \
    Maria Frank Claire Henry Ruth";

pub(super) const PLACES: &str = "\
    store garden restaurant school hospital office house station park shops library";

pub(super) const OBJECTS: &str = "\
    ring kiss bone basketball computer necklace drink snack bag ball book";

/// `{1}` and `{2}` are the two people in order, `{3}` is who acts. The first is the demo of
/// TransformerLens, the others are appendix E's.
pub(super) const TEMPLATES: [&str; 16] = [
    "When{1} and{2} went to the{place},{3} gave the{object} to",
    "When{1} and{2} went to the{place},{3} gave a{object} to",
    "Then,{1} and{2} went to the{place}.{3} gave a{object} to",
    "Then,{1} and{2} had a lot of fun at the{place}.{3} gave a{object} to",
    "Then,{1} and{2} were working at the{place}.{3} decided to give a{object} to",
    "Then,{1} and{2} were thinking about going to the{place}.{3} wanted to give a{object} to",
    "Then,{1} and{2} had a long argument, and afterwards{3} said to",
    "After{1} and{2} went to the{place},{3} gave a{object} to",
    "When{1} and{2} got a{object} at the{place},{3} decided to give it to",
    "When{1} and{2} got a{object} at the{place},{3} decided to give the{object} to",
    "While{1} and{2} were working at the{place},{3} gave a{object} to",
    "While{1} and{2} were commuting to the{place},{3} gave a{object} to",
    "After the lunch,{1} and{2} went to the{place}.{3} gave a{object} to",
    "Afterwards,{1} and{2} went to the{place}.{3} gave a{object} to",
    "The{place}{1} and{2} went to had a{object}.{3} gave it to",
    "Friends{1} and{2} found a{object} at the{place}.{3} gave it to",
];

/// Who is named first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// The indirect object: "When A and B went ..., B gave ... to" (A).
    Abba,
    /// The subject: "When B and A went ..., B gave ... to" (A).
    Baba,
}

/// How a corrupted prompt differs from its clean one. Template, order, place and object stay.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Corruption {
    /// S2 becomes the indirect object's name (ABB → ABA), so that the right answer is now the
    /// other name: TransformerLens's demo. One token differs.
    Aba,
    /// S2 becomes a third name (ABB → ABC), so that no name is repeated. One token differs.
    Abc,
    /// Two other people (ABB → XYY): the same structure, another answer. Three tokens differ.
    OtherNames,
    /// Three different other names (ABB → XYZ), the paper's p_ABC. Three tokens differ.
    RandomNames,
}

/// Where the roles stand in a prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IoiPositions {
    /// The indirect object.
    pub io: usize,
    /// The subject's first mention.
    pub s1: usize,
    /// The subject's second mention.
    pub s2: usize,
    /// The last token, where the name is predicted.
    pub end: usize,
}

/// One prompt, without its answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoiPrompt {
    /// Tokens and labels.
    pub prompt: Prompt,
    /// The text (without BOS).
    pub text: String,
    /// The token at `positions.io`; the right answer, unless the prompt is corrupted.
    pub io: u32,
    /// The token at `positions.s1`.
    pub s: u32,
    /// The token at `positions.s2`; equal to `s`, unless the prompt is corrupted.
    pub s2: u32,
    /// Where the roles stand; the same in both prompts of a pair.
    pub positions: IoiPositions,
    /// Index of the template.
    pub template: usize,
    /// Who is named first.
    pub order: Order,
}

impl From<&IoiPrompt> for Prompt {
    fn from(ioi: &IoiPrompt) -> Self {
        ioi.prompt.clone()
    }
}

/// A clean prompt and its corruption: of the same length, and different at names only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IoiPair {
    /// Clean.
    pub clean: IoiPrompt,
    /// Corrupted. Its roles are those of the clean prompt's positions.
    pub corrupted: IoiPrompt,
}

/// The generator of IOI prompts. The unit of its [`Split`] is the unordered pair of names.
///
#[cfg_attr(
    feature = "mini",
    doc = r#"
```
use patchlens::tasks::{Corruption, Ioi};
use patchlens::{Prompts, Tokenizer};

let tokenizer = Tokenizer::mini();
let pairs = Ioi::new(&tokenizer)?.template(0)?.pairs(8, Corruption::Aba, 0)?;
let clean = Prompts::new(pairs.iter().map(|pair| &pair.clean))?;
let corrupted = Prompts::new(pairs.iter().map(|pair| &pair.corrupted))?;
assert_eq!(clean.common_len(), corrupted.common_len());

let first = &pairs[0].clean;
assert_eq!(clean[0].tokens[first.positions.s2], first.s);
# Ok::<(), patchlens::Error>(())
```
"#
)]
#[derive(Clone, Debug)]
pub struct Ioi<'t> {
    setting: Setting<'t>,
    names: Vec<Word>,
    pairs: Vec<[usize; 2]>,
    places: Vec<Word>,
    objects: Vec<Word>,
    templates: Vec<usize>,
}

/// Everything of a prompt but the names.
struct Scene {
    template: usize,
    order: Order,
    place: Word,
    object: Word,
}

impl<'t> Ioi<'t> {
    /// All templates, and those names, places and objects which are single tokens.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when fewer than 6 names, 1 place, 1 object or 1 template remain.
    pub fn new(tokenizer: &'t Tokenizer) -> Result<Self> {
        let setting = Setting::new(tokenizer);
        let mut ioi = Ioi {
            names: setting.words("IOI names", NAMES, 6)?,
            places: setting.words("IOI places", PLACES, 1)?,
            objects: setting.words("IOI objects", OBJECTS, 1)?,
            pairs: Vec::new(),
            templates: Vec::new(),
            setting,
        };
        let usable = |&template: &usize| {
            let scene = ioi.scene(template, Order::Abba, &mut rng(0));
            ioi.prompt(&scene, [ioi.names[0], ioi.names[1], ioi.names[1]])
                .is_ok()
        };
        let templates: Vec<usize> = (0..TEMPLATES.len()).filter(usable).collect();
        enough("IOI templates", templates.len(), TEMPLATES.len(), 1)?;
        ioi.templates = templates;
        ioi.split(Split::All)
    }

    /// Keeps the pairs of names of one split.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when it has no pair among the names that remain.
    pub fn split(mut self, split: Split) -> Result<Self> {
        let n = self.names.len();
        let all = (0..n).flat_map(|a| (a + 1..n).map(move |b| [a, b]));
        self.pairs = all
            .filter(|&[a, b]| {
                let [a, b] = [self.names[a].text, self.names[b].text];
                split.keeps_key(&format!("{} {}", a.min(b), a.max(b)))
            })
            .collect();
        enough("pairs of IOI names", self.pairs.len(), n * (n - 1) / 2, 1)?;
        Ok(self)
    }

    /// Puts BOS before every prompt.
    ///
    /// # Errors
    /// [`Error::Tokenizer`] when the tokenizer has none.
    pub fn with_bos(mut self) -> Result<Self> {
        self.setting.tokenizer.bos()?;
        self.setting.bos = true;
        Ok(self)
    }

    /// Keeps one template, so that all prompts have the same length and their positions the same
    /// meaning.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] when there is no such template, or this tokenizer can't encode it.
    pub fn template(mut self, template: usize) -> Result<Self> {
        if !self.templates.contains(&template) {
            return Err(Error::OutOfRange {
                at: "IOI".to_string(),
                axis: "template",
                found: template,
                expected: format!("one of {:?}", self.templates),
            });
        }
        self.templates = vec![template];
        Ok(self)
    }

    /// The indices of the templates in use.
    pub fn templates(&self) -> &[usize] {
        &self.templates
    }

    /// How many unordered pairs of names are in use.
    pub fn name_pairs(&self) -> usize {
        self.pairs.len()
    }

    /// The tokens of the names in use.
    pub fn name_tokens(&self) -> Vec<u32> {
        self.names.iter().map(|name| name.id).collect()
    }

    /// `n` prompts, ABBA and BABA in turn; the rest is drawn at random.
    ///
    /// # Errors
    /// [`Error::Prompt`] when this tokenizer does not keep the names apart from what is around.
    pub fn prompts(&self, n: usize, seed: u64) -> Result<Vec<IoiPrompt>> {
        let mut rng = rng(seed);
        (0..n).map(|i| self.draw(in_turn(i), &mut rng)).collect()
    }

    /// `n` clean prompts, each with its corruption.
    ///
    /// # Errors
    /// Same as [`Ioi::prompts`], and when the two prompts of a pair differ in length.
    pub fn pairs(&self, n: usize, corruption: Corruption, seed: u64) -> Result<Vec<IoiPair>> {
        let mut rng = rng(seed);
        (0..n)
            .map(|i| self.draw_pair(in_turn(i), corruption, &mut rng))
            .collect()
    }

    pub(super) fn draw(&self, order: Order, rng: &mut ChaCha8Rng) -> Result<IoiPrompt> {
        let scene = self.scene(*choose(&self.templates, rng), order, rng);
        let [io, s] = self.people(rng);
        self.prompt(&scene, [io, s, s].map(|i| self.names[i]))
    }

    fn draw_pair(
        &self,
        order: Order,
        corruption: Corruption,
        rng: &mut ChaCha8Rng,
    ) -> Result<IoiPair> {
        let scene = self.scene(*choose(&self.templates, rng), order, rng);
        let [io, s] = self.people(rng);
        let [x, y, z] = self.strangers([io, s], rng);
        let changed = match corruption {
            Corruption::Aba => [io, s, io],
            Corruption::Abc => [io, s, z],
            Corruption::OtherNames => [x, y, y],
            Corruption::RandomNames => [x, y, z],
        };
        let clean = self.prompt(&scene, [io, s, s].map(|i| self.names[i]))?;
        let corrupted = self.prompt(&scene, changed.map(|i| self.names[i]))?;
        if clean.positions != corrupted.positions {
            return Err(Error::Prompt {
                at: format!("`{}`", corrupted.text),
                found: format!("{:?}", corrupted.positions),
                expected: format!("as in `{}`: {:?}", clean.text, clean.positions),
            });
        }
        Ok(IoiPair { clean, corrupted })
    }

    fn scene(&self, template: usize, order: Order, rng: &mut ChaCha8Rng) -> Scene {
        Scene {
            template,
            order,
            place: *choose(&self.places, rng),
            object: *choose(&self.objects, rng),
        }
    }

    /// The indirect object and the subject.
    fn people(&self, rng: &mut ChaCha8Rng) -> [usize; 2] {
        let [a, b] = *choose(&self.pairs, rng);
        if rng.random() { [a, b] } else { [b, a] }
    }

    /// Three names other than two given ones, all different.
    fn strangers(&self, people: [usize; 2], rng: &mut ChaCha8Rng) -> [usize; 3] {
        let others: Vec<usize> = (0..self.names.len())
            .filter(|i| !people.contains(i))
            .collect();
        let drawn = sample(rng, others.len(), 3);
        [0, 1, 2].map(|i| others[drawn.index(i)])
    }

    /// Fills in the names of the roles IO, S1 and S2.
    fn prompt(&self, scene: &Scene, [io, s1, s2]: [Word; 3]) -> Result<IoiPrompt> {
        let (first, second) = match scene.order {
            Order::Abba => (io, s1),
            Order::Baba => (s1, io),
        };
        let words = [first, second, s2, scene.place, scene.object].map(|word| word.text);
        let text = text(TEMPLATES[scene.template], words);
        let prompt = self.setting.encode(&text)?;
        let positions = positions(&prompt, [first, second, s2], scene.order, &text)?;
        Ok(IoiPrompt {
            prompt,
            text,
            io: io.id,
            s: s1.id,
            s2: s2.id,
            positions,
            template: scene.template,
            order: scene.order,
        })
    }
}

/// A template with its words: first and second person, who acts, place, object.
pub(super) fn text(template: &str, words: [&str; 5]) -> String {
    let slots = ["{1}", "{2}", "{3}", "{place}", "{object}"];
    std::iter::zip(slots, words).fold(template.to_string(), |text, (slot, word)| {
        text.replace(slot, &format!(" {word}"))
    })
}

fn in_turn(i: usize) -> Order {
    if i.is_multiple_of(2) {
        Order::Abba
    } else {
        Order::Baba
    }
}

/// Finds the names, given in order of their mention, each of which must be a token of its own.
fn positions(prompt: &Prompt, names: [Word; 3], order: Order, text: &str) -> Result<IoiPositions> {
    let is_name = |&i: &usize| names.iter().any(|name| name.id == prompt.tokens[i]);
    let found: Vec<usize> = (0..prompt.len()).filter(is_name).collect();
    let in_order = found.iter().map(|&i| prompt.tokens[i]);
    if !in_order.eq(names.iter().map(|name| name.id)) {
        return Err(Error::Prompt {
            at: format!("`{text}`"),
            found: format!("the names at positions {found:?}"),
            expected: "each of the three mentions as a token of its own".to_string(),
        });
    }
    let (io, s1) = match order {
        Order::Abba => (found[0], found[1]),
        Order::Baba => (found[1], found[0]),
    };
    Ok(IoiPositions {
        io,
        s1,
        s2: found[2],
        end: prompt.len() - 1,
    })
}
