//! Loads a Kubernetes volume and shows whose certificates are in it.
//!
//! certsource = "0.1"

fn main() -> Result<(), certsource::Error> {
    let material = certsource::Files::kubernetes("/etc/tls").load()?;
    for (role, certificate) in material.certificates() {
        println!("{role}: {}", certificate.inspection().subject());
    }
    Ok(())
}
