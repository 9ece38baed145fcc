//! Made-up values for tests: the same ones from the same seed.

/// splitmix64.
pub struct Generator(u64);

impl Generator {
    pub fn new(seed: u64) -> Generator {
        Generator(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    pub fn pick<'a, T: ?Sized>(&mut self, of: &[&'a T]) -> &'a T {
        of[self.below(of.len())]
    }

    /// Letters that tend to break things, and some that don't.
    pub fn text(&mut self, most: usize) -> String {
        const CHARS: &[char] = &[
            'a', 'b', 'A', 'B', 'Z', '0', '9', '_', '-', ' ', '.', '/', '~', '"', '\\', '\n', '\t', '\u{1}', 'é', 'É',
            'ß', 'İ', 'ǅ', '名', '\u{301}', '𝐀', '😀', '²', '{', '}', '[', ']', ',', ':',
        ];
        (0..self.below(most + 1)).map(|_| CHARS[self.below(CHARS.len())]).collect()
    }

    /// A number as JSON writes it.
    pub fn number(&mut self) -> String {
        let mut text = String::new();
        if self.below(3) == 0 {
            text.push('-');
        }
        match self.below(4) {
            0 => text.push('0'),
            _ => {
                text.push(char::from(b'1' + self.below(9) as u8));
                self.digits(&mut text, 25);
            }
        }
        if self.below(3) == 0 {
            text.push('.');
            text.push(char::from(b'0' + self.below(10) as u8));
            self.digits(&mut text, 12);
        }
        if self.below(4) == 0 {
            text.push_str(self.pick(&["e", "E", "e+", "e-"]));
            text.push_str(&self.below(30).to_string());
        }
        text
    }

    fn digits(&mut self, text: &mut String, most: usize) {
        for _ in 0..self.below(most) {
            text.push(char::from(b'0' + self.below(10) as u8));
        }
    }

    /// A document of a few levels, with escapes, odd names and duplicates.
    pub fn json(&mut self, levels: usize) -> String {
        let blank = self.pick(&["", "", " ", "\n "]);
        let value = match self.below(if levels == 0 { 5 } else { 8 }) {
            0 => self.pick(&["null", "true", "false"]).to_owned(),
            1 | 2 => self.number(),
            3 | 4 => self.string(),
            5 => {
                let items: Vec<String> = (0..self.below(4)).map(|_| self.json(levels - 1)).collect();
                format!("[{}]", items.join(","))
            }
            _ => {
                let members: Vec<String> = (0..self.below(5)).map(|_| self.member(levels - 1)).collect();
                format!("{{{}}}", members.join(","))
            }
        };
        format!("{blank}{value}{blank}")
    }

    pub fn member(&mut self, levels: usize) -> String {
        let name = match self.below(3) {
            0 => self.string(),
            _ => format!("\"{}\"", self.pick(&["a", "b", "c", "x/y", "~z"])),
        };
        format!("{name}:{}", self.json(levels))
    }

    fn string(&mut self) -> String {
        match self.below(4) {
            0 => r#""\u00e9\ud83d\ude00\/\b\"""#.to_owned(),
            _ => serde_json::to_string(&self.text(12)).unwrap(),
        }
    }
}
