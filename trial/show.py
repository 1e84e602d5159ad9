import sys, pathlib, torch
torch.set_num_threads(1)
from minildm import storage, likeness
from minildm.pipeline import LatentDiffusion
from minildm.recipes import taught
from minildm.images import to_pil
from PIL import Image
w=sys.argv[1]; names=sys.argv[3].split(","); steps=int(sys.argv[4])
pipe = LatentDiffusion.from_pretrained("pocket"); pipe.to(torch.float32)
if w!="pocket": storage.fill(storage.state(pipe.unet), {k:v.float() for k,v in storage.read(pathlib.Path(w))[0].items()}, pathlib.Path(w))
sheet=Image.new("RGB",(8*132,len(names)*132),"white")
for r,n in enumerate(names):
    x=pipe(taught.asked([n]*8),seed=list(range(900,908)),steps=steps,output="tensor")
    u=likeness.unexplained(x,[n]*8); print(n,[round(float(v),2) for v in u])
    for c,im in enumerate(to_pil(x)): sheet.paste(im.resize((128,128),0),(c*132,r*132))
sheet.save(sys.argv[2])
