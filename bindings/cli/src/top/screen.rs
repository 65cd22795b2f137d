//! A terminal's second screen, on which figures stay in their places. When it is left, the terminal is as it was.

use crate::failure::Failure;
use console::Term;
use std::io;

const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";

/// The second screen, without a cursor, until it is dropped.
pub(crate) struct Screen(Term);

impl Screen {
    /// Puts the screen of standard output away; `None` if that is no terminal.
    pub(crate) fn enter() -> Result<Option<Self>, Failure> {
        let terminal = Term::stdout();
        if !terminal.is_term() {
            return Ok(None);
        }
        terminal.write_str(ENTER).map_err(Failure::io("the terminal"))?;
        let screen = Screen(terminal);
        screen.0.hide_cursor().and_then(|()| screen.0.clear_screen()).map_err(Failure::io("the terminal"))?;
        Ok(Some(screen))
    }

    /// Writes over what was there, and clears what is left of it.
    pub(crate) fn show(&self, text: &str) -> Result<(), Failure> {
        self.write(text).map_err(Failure::io("the terminal"))
    }

    fn write(&self, text: &str) -> io::Result<()> {
        let (rows, columns) = self.0.size();
        let mut lines = text.lines();
        self.0.move_cursor_to(0, 0)?;
        for row in 0..usize::from(rows.saturating_sub(1)) {
            self.0.clear_line()?;
            match lines.next() {
                Some(line) => self.0.write_line(&line.chars().take(usize::from(columns)).collect::<String>())?,
                None if row == 0 => {}
                None => self.0.move_cursor_down(1)?,
            }
        }
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        let _ = self.0.show_cursor().and_then(|()| self.0.write_str(LEAVE));
    }
}
