//! Follows a trust bundle on threads of its own.
//!
//! certsource-reload = "0.1"

use certsource_reload::{Reloader, certsource::Files};

fn main() -> Result<(), certsource_reload::Error> {
    let reloader = Reloader::builder(Files::trust("/etc/tls/ca.pem"))
        .on_reload(|reload| println!("generation {}", reload.generation.number()))
        .start()?;
    println!("generation {}", reloader.current().number());
    Ok(())
}
