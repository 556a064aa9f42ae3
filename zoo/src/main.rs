//! x
use std::ops::ControlFlow;
fn main() {
    let path = std::env::args().nth(1).unwrap();
    let options = zoo::OpenOptions { dtype: framework::Dtype::Float32, packed: framework::weights::Packed::Unpack };
    let t = std::time::Instant::now();
    let model = zoo::LanguageModel::open(path.as_ref(), options, &mut |_, _| ControlFlow::Continue(())).unwrap();
    println!("open {:?}", t.elapsed());
    let req = zoo::Request { max_tokens: 64, ..Default::default() };
    let c = model
        .chat(&[zoo::text::Message::user("What is the capital of France?")], &req, &mut |e| {
            if let zoo::Event::Text(t) = e {
                print!("{t}");
            }
            ControlFlow::Continue(())
        })
        .unwrap();
    println!("\n{:?} {} prefill {} t/s decode {} t/s", c.stopped, c.prompt_tokens, c.prefill_rate(), c.decode_rate());
}
