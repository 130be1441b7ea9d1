//! Inputs near the seeds. Deterministic: a failing run fails again.

/// Pieces that parsers disagree about.
const TOKENS: [&[u8]; 42] = [
    b"0x",
    b"%00",
    b"%2e",
    b"@",
    b":",
    b"::",
    b"[",
    b"]",
    b"/",
    b"//",
    b"\\",
    b"?",
    b"#",
    b".",
    b"..",
    b"-",
    b"_",
    b"\r\n",
    b"\n",
    b"\r\n\r\n",
    b"\n\n",
    b"\t",
    b" ",
    b"\0",
    b"\x7f",
    b"\xff",
    b"\xc2\xad",
    b"\xe2\x80\x8b",
    b"\xef\xbc\x91",
    b"xn--",
    b"127.1",
    b"0177",
    b"::ffff:",
    b"/0",
    b"/96",
    b"localhost",
    b"65536",
    b"\"",
    b"\\u0000",
    b"1e9999",
    b"HTTP/1.1 102 X\r\n\r\n",
    b"x-zyven-egress-within-ms: 1\r\n",
];
/// Mutations do not grow without end.
const BYTES_MAX: usize = 12 * 1024;

pub(crate) struct Mutations<'a> {
    seeds: &'a [Vec<u8>],
    state: u64,
}

impl<'a> Mutations<'a> {
    pub(crate) fn of(seeds: &'a [Vec<u8>]) -> Self {
        Self {
            seeds,
            state: 0x9e37_79b9_7f4a_7c15,
        }
    }

    /// A number below `limit`, which is not 0. xorshift64*, good enough to choose with.
    fn below(&mut self, limit: usize) -> usize {
        self.state ^= self.state >> 12;
        self.state ^= self.state << 25;
        self.state ^= self.state >> 27;
        let number = self.state.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(number).unwrap() % limit
    }

    fn seed(&mut self) -> &'a [u8] {
        let seeds = self.seeds;
        &seeds[self.below(seeds.len())]
    }

    fn mutate(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        match self.below(7) {
            0 => input.truncate(at),
            1 if at < input.len() => input[at] ^= 1 << self.below(8),
            2 if at < input.len() => input[at] = u8::try_from(self.below(256)).unwrap(),
            3 if at < input.len() => {
                let end = at + 1 + self.below((input.len() - at).min(16));
                input.drain(at..end.min(input.len()));
            }
            4 => {
                // A piece of another seed.
                let other = self.seed();
                let from = self.below(other.len() + 1);
                let to = from + self.below(other.len() - from + 1);
                input.splice(at..at, other[from..to].iter().copied());
            }
            5 if at < input.len() => {
                // A piece of itself, over and over.
                let piece = input[at..input.len().min(at + 8)].to_vec();
                let times = 1 + self.below(40);
                let repeated: Vec<u8> = piece
                    .iter()
                    .copied()
                    .cycle()
                    .take(piece.len() * times)
                    .collect();
                input.splice(at..at, repeated);
            }
            _ => {
                let token = TOKENS[self.below(TOKENS.len())];
                input.splice(at..at, token.iter().copied());
            }
        }
        input.truncate(BYTES_MAX);
    }
}

impl Iterator for Mutations<'_> {
    type Item = Vec<u8>;

    fn next(&mut self) -> Option<Vec<u8>> {
        let mut input = self.seed().to_vec();
        for _ in 0..=self.below(4) {
            self.mutate(&mut input);
        }
        Some(input)
    }
}
